// The worker's side of NodeRegistry.WorkerChannel: says hello, takes commands, sends back what the engine reports.
//
// When the stream is lost, all sequences are stopped (the coordinator has failed them) and the channel is opened again,
// with growing pauses; nothing of an old stream is ever reported on a new one.
#pragma once

#include <deque>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "base/mutex.h"
#include "cluster/cluster_types.h"
#include "gpu_worker/engine/decode_engine.h"
#include "gpu_worker/engine/engine_loop.h"
#include "rpc/rpc_options.h"
#include "tributary/v1/coordinator.grpc.pb.h"

namespace tributary {

struct WorkerServiceOptions {
  std::string coordinator;  // host:port
  NodeDescription hello;
  std::vector<uint32_t> eos_tokens;
  int64_t min_backoff_ns = 100 * kNsPerMs;
  int64_t max_backoff_ns = 2 * kNsPerS;
  int64_t id_patience_ns = 10 * kNsPerS;   // for another process with this id to end: twice the default node timeout
  int64_t close_timeout_ns = 2 * kNsPerS;  // for the coordinator to read the last events
  RpcOptions rpc;                          // of the channel to it
};

// Thread-safe. The engine's events come from the loop's thread.
class WorkerService final : public EngineEvents {
 public:
  // `on_refused`: the coordinator will not have this worker (other geometry or version, or another process keeps its
  // id); called once, from a thread of the service, which does not try again.
  WorkerService(WorkerServiceOptions options, std::function<void(const absl::Status&)> on_refused);
  ~WorkerService() override;

  // `loop` outlives the service.
  void Start(EngineLoop* loop);
  // Asks the coordinator for nothing new; what runs goes on.
  void SetDraining();
  // Closes the channel once the coordinator has read what was sent. No event is sent any more.
  void Stop();

  void OnPrefillProgress(SequenceId sequence, uint32_t layers_done, uint32_t num_layers, double fraction) override;
  void OnTokens(const SequenceTokens& tokens) override;
  void OnStepDone(StepId step, std::span<const SequenceTokens> tokens, double step_s) override;
  void OnEnded(SequenceId sequence, const absl::Status& status, const std::string& failed_node_id,
               const SequenceSummary& summary) override;
  void OnStalled(SequenceId sequence, const std::string& node_id) override;
  void OnResumed(SequenceId sequence) override;
  void OnKept(SequenceId sequence, const SequenceSummary& summary) override;

 private:
  using Stream = grpc::ClientReaderWriter<v1::WorkerEvent, v1::WorkerCommand>;

  void ThreadMain();
  // One stream, from hello to its end.
  absl::Status RunStream(bool* was_welcome);
  // The id is another process's, which may have ended: whether to ask once more.
  bool MayWaitForId(const absl::Status& status);
  void WriteEvents(Stream& stream);
  absl::Status Handle(const v1::WorkerCommand& command);
  absl::Status Begin(const v1::WorkerCommand::StartSequence& start);
  absl::Status Continue(const v1::WorkerCommand::ContinueSequence& message);
  static absl::Status TooManyCommands();
  void StopSequences();
  bool Pause(int64_t backoff_ns);
  void Send(v1::WorkerEvent event);
  v1::WorkerEvent HeartbeatEvent() const ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_);

  const WorkerServiceOptions options_;
  const std::function<void(const absl::Status&)> on_refused_;
  std::unique_ptr<v1::NodeRegistry::Stub> stub_;
  EngineLoop* loop_ = nullptr;
  std::optional<int64_t> id_wait_end_ns_;  // of the thread: while another process has the id
  std::thread thread_;

  Mutex mutex_;
  CondVar changed_;
  std::deque<v1::WorkerEvent> outgoing_ ABSL_GUARDED_BY(mutex_);
  bool stream_open_ ABSL_GUARDED_BY(mutex_) = false;  // events are kept only while it is
  bool stopping_ ABSL_GUARDED_BY(mutex_) = false;
  bool draining_ ABSL_GUARDED_BY(mutex_) = false;
  bool heartbeat_due_ ABSL_GUARDED_BY(mutex_) = false;
  int64_t heartbeat_interval_ns_ ABSL_GUARDED_BY(mutex_) = 500 * kNsPerMs;
  grpc::ClientContext* context_ ABSL_GUARDED_BY(mutex_) = nullptr;  // of the open stream
};

}  // namespace tributary

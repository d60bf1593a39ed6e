// A whole cluster in one thread and one seed: a GPU worker's engine over a tiny device, CPU
// attention nodes, the in-process network with its faults, and a clock that moves only when
// everybody waits. Plays the coordinator: opens and closes shards, forms steps.
#pragma once

#include <atomic>
#include <deque>
#include <functional>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "cpu_attention_service/node/attention_metrics.h"
#include "cpu_attention_service/node/attention_server.h"
#include "gpu_worker/engine/decode_engine.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "telemetry/metrics.h"
#include "tests/testutil/tiny_device.h"
#include "transport/inproc/inproc_network.h"

namespace tributary {

struct SimOptions {
  uint64_t seed = 1;
  uint32_t num_nodes = 2;
  uint32_t num_holders = 1;  // of each shard, at most num_nodes: the node after its first holder is its next one
  TinyModel model;
  std::vector<uint32_t> windowed_layers = {};  // of the model, and what they see
  uint32_t sliding_window_tokens = 0;
  float softmax_scale = 0;  // 0: the model's
  float soft_cap = 0;
  InprocFaults faults;
  bool data_plane_mac = false;
  uint64_t node_pool_bytes = 4u << 20;
  uint64_t resident_pool_bytes = 4u << 20;
  size_t extent_bytes = 16 << 10;
  uint64_t spill_window_bytes = 32 << 10;
  uint32_t spill_frame_bytes = 4 << 10;
  uint32_t max_prefill_tokens = 4096;
  uint32_t max_frames_in_flight = 256;
  uint32_t max_batch = 8;
  uint32_t append_chunk_tokens = 8;
  // Null: a TinyDevice of `model`. Otherwise `model` need state heads, layers and vocabulary only.
  std::function<std::unique_ptr<Device>(const DeviceLimits& limits)> make_device;
  bool observe_logits = true;  // false: a device that samples keeps them
  // Nodes are polled by threads of their own and time is real; faults that need ManualClock are off limits.
  bool threaded = false;
  // Null: the in-process network. Otherwise a data plane for the worker and for each node, all polled by one thread;
  // time is real, and there are no faults.
  std::function<std::unique_ptr<DataPlane>()> make_plane;
};

// How a sequence's remote tokens are cut.
struct SimCut {
  uint32_t num_stripes = 1;
  uint64_t stripe_blocks = 1;
  uint32_t head_parts = 1;
  uint32_t layer_parts = 1;
};

struct SimRequest {
  std::vector<uint32_t> prompt;
  uint32_t max_tokens = 1;
  WindowLayout layout;
  SimCut cut;
  DType kv_dtype = DType::kF32;
  DType remote_k_dtype = DType::kUnset;  // of the shards; unset: kv_dtype
  DType remote_v_dtype = DType::kUnset;
  SamplingParams sampling;
  std::vector<uint32_t> forced_tokens;
  std::vector<uint32_t> stop_tokens;
  uint32_t top_logprobs = 0;
  bool keep = false;                // after the answer, for Continue() or Stop()
  uint64_t max_context_tokens = 0;  // of all turns together, if they need more than this one
  PolicyParams policy;
  bool report_attention_heads = false;
  int64_t max_stall_ns = 3 * kNsPerS;
};

// A later turn.
struct SimTurn {
  std::vector<uint32_t> prompt;
  uint32_t max_tokens = 1;
  SamplingParams sampling;
  std::vector<uint32_t> forced_tokens;
  std::vector<uint32_t> stop_tokens;
  bool keep = false;
};

// Of a sequence's last turn.
struct SimResult {
  std::vector<uint32_t> tokens;
  std::vector<float> logprobs;
  std::vector<TopTokens> top;              // as asked for
  std::vector<std::vector<float>> logits;  // per token, as the engine saw them
  bool kept = false;                       // between two turns
  bool ended = false;
  uint32_t num_stalls = 0;
  uint32_t num_rebuilds = 0;
  std::string stalled_on;  // now; "" if it is not
  absl::Status status;
  std::string failed_node;
  SequenceSummary summary;
};

// The worker's data plane: hands waiting over to the simulation.
class SimPlane final : public DataPlane {
 public:
  explicit SimPlane(std::unique_ptr<DataPlane> plane) : plane_(std::move(plane)) {}

  std::function<void(int64_t timeout_ns)> wait;

  const TransportInfo& info() const override { return plane_->info(); }
  absl::StatusOr<PeerId> Connect(std::string_view address) override { return plane_->Connect(address); }
  void Disconnect(PeerId peer) override { plane_->Disconnect(peer); }
  absl::StatusOr<FrameBuffer> AllocateFrame(size_t bytes) override { return plane_->AllocateFrame(bytes); }
  absl::Status Send(PeerId peer, FrameBuffer frame, SendClass send_class) override {
    return plane_->Send(peer, std::move(frame), send_class);
  }
  int Poll(FrameHandler& handler) override { return plane_->Poll(handler); }
  void WaitForEvent(int64_t timeout_ns) override { wait ? wait(timeout_ns) : plane_->WaitForEvent(timeout_ns); }
  void Wake() override { plane_->Wake(); }
  DataPlaneCounters counters() const override { return plane_->counters(); }

 private:
  std::unique_ptr<DataPlane> plane_;
};

class SimCluster final : private EngineEvents, private BlockingConnector {
 public:
  explicit SimCluster(const SimOptions& options);
  ~SimCluster() override;

  // Opens the request's shards on the nodes and starts it on the worker.
  SequenceId Submit(const SimRequest& request);
  // The next turn of a kept sequence; its result begins anew.
  void Continue(SequenceId id, const SimTurn& turn);
  // Places a sequence that has failed, or that the worker has forgotten, anew on the nodes that live, and has it
  // computed again from its tokens, cut as it was; its result goes on. REQUIRES: one lives.
  void Rebuild(SequenceId id);
  // Likewise all that have failed because of a node.
  void RebuildFailed();
  // Runs until all sequences have ended or are kept. False if that takes implausibly long.
  bool RunUntilEnded();
  // One turn of the coordinator's loop: a step if any sequence decodes, and a piece of prefill.
  void Turn();
  void Stop(SequenceId id) { engine_->Stop(id); }
  const SimResult& result(SequenceId id) const { return results_.at(id); }
  const std::vector<ShardPlacement>& shards(SequenceId id) const { return shards_.at(id); }

  // Faults, between turns or from `on_wait`.
  void Kill(uint32_t node);    // as kill -9
  void Freeze(uint32_t node);  // as SIGSTOP
  void Thaw(uint32_t node);
  void Restart(uint32_t node);  // a new process under the same id
  void Cut(uint32_t node);      // the link to the worker breaks
  // A new process in the worker's place: it has forgotten all sequences, whose shards are closed. Between turns only.
  void RestartWorker();
  // Called each time that the worker waits, with the number of the wait.
  std::function<void(uint64_t wait)> on_wait;

  std::string node_id(uint32_t node) const { return nodes_[node].id; }
  AttentionServer& server(uint32_t node) { return *nodes_[node].server; }
  bool alive(uint32_t node) const { return nodes_[node].alive; }
  DecodeEngine& engine() { return *engine_; }
  ManualClock& clock() { return manual_clock_; }
  SimPlane& plane() { return *plane_; }
  InprocNetwork& network() { return network_; }
  uint64_t num_waits() const { return num_waits_; }
  // Frames that worker and nodes have refused for this reason.
  uint64_t num_refused(FrameError reason) const;
  // What is left where nothing should be: "" if every pool is empty and nobody holds a frame.
  std::string Leftovers();

  int64_t step_timeout_ns = 2 * kNsPerS;

 private:
  struct Node {
    std::string id;
    std::string address;
    uint64_t incarnation = 0;
    bool alive = true;
    bool frozen = false;
    MetricRegistry registry;
    AttentionMetrics metrics{registry};  // of all its processes
    std::unique_ptr<DataPlane> plane;
    std::unique_ptr<AttentionServer> server;
    std::mutex mutex;  // of the server, when threaded
    std::atomic<bool> stopping{false};
    std::thread thread;
  };

  std::unique_ptr<DataPlane> MakePlane(const std::string& address);
  void StartNode(Node& node);
  void StopThread(Node& node);
  void StartWorker();
  // What is known of a sequence beside its results.
  struct Record {
    SimRequest request;  // its placement; of a later turn: with what that one asks for
    std::vector<PastTurn> past_turns;
    uint64_t max_context_tokens = 0;
    Epoch epoch;
  };
  SequencePlan PlanOf(SequenceId id) const;
  std::vector<ShardPlacement> OpenShards(SequenceId id, const std::vector<Node*>& nodes);
  void OpenShard(const ShardSpec& spec, Node& node);
  void CloseShards(SequenceId id);
  void Wait(int64_t timeout_ns);
  int PollNodes();

  void OnPrefillProgress(SequenceId sequence, uint32_t layers_done, uint32_t num_layers, double fraction) override;
  void OnTokens(const SequenceTokens& tokens) override;
  void OnStepDone(StepId step, std::span<const SequenceTokens> tokens, double step_s) override;
  void OnEnded(SequenceId sequence, const absl::Status& status, const std::string& failed_node_id,
               const SequenceSummary& summary) override;
  void OnStalled(SequenceId sequence, const std::string& node_id) override;
  void OnResumed(SequenceId sequence) override;
  void OnKept(SequenceId sequence, const SequenceSummary& summary) override;
  absl::StatusOr<NodeSession> Connect(const NodeEndpoint& node, const TransportInfo& local) override;

  const SimOptions options_;
  ManualClock manual_clock_;
  RealClock real_clock_;
  const Clock* const clock_;
  InprocNetwork network_;
  std::unique_ptr<Device> device_;
  std::deque<Node> nodes_;
  std::unique_ptr<SimPlane> plane_;
  MetricRegistry registry_;
  EngineMetrics metrics_{registry_};
  std::unique_ptr<DecodeEngine> engine_;
  WorkerIdentity worker_{"worker-0", 0};
  std::map<SequenceId, SimResult> results_;
  std::map<SequenceId, Record> records_;
  std::map<SequenceId, std::vector<ShardPlacement>> shards_;
  uint64_t last_sequence_ = 0;
  uint64_t last_epoch_ = 100;
  uint64_t last_step_ = 0;
  uint64_t last_shard_ = 0;
  uint64_t num_waits_ = 0;
};

}  // namespace tributary

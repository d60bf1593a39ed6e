// Internals of DecodeEngine: decode_engine.cc has a sequence's life, engine_step.cc its decode
// steps.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/decode_engine.h"
#include "gpu_worker/decode_step.h"
#include "gpu_worker/engine_metrics.h"
#include "gpu_worker/prefill_job.h"
#include "gpu_worker/sequence.h"

namespace tributary {

struct DecodeEngine::Impl final : NodeListener {
  Impl(const EngineOptions& options, Device* device, DataPlane* data_plane,
       NodeConnector* connector, const Clock* clock, EngineEvents* events, EngineMetrics* metrics,
       StepTrace* trace);

  // A sequence's life (decode_engine.cc).
  void Start(SequencePlan plan);
  // Everything that may refuse a sequence. Sets *blamed to the node if one is to blame.
  absl::StatusOr<std::unique_ptr<Sequence>> Admit(SequencePlan plan, std::string* blamed);
  void Stop(SequenceId id, Epoch epoch);
  bool RunOnce();
  bool RunPrefill();
  void ReportProgress(SequenceId id);
  bool FinishDraining();
  void FailOverdue();
  // Ends the sequences that have failed or are complete.
  void EndDone();
  void End(SequenceId id, const absl::Status& status, NodeIdx node, bool report);
  void CountFailure(const absl::Status& status);
  void UpdateGauges();

  // Spills of blocks that leave their windows (engine_step.cc).
  void BeginSpills();
  bool PumpSpills();
  // Waits until the sequence can append, i.e. its oldest block is acknowledged; fails it at the
  // deadline.
  void MakeRoom(Sequence& sequence, int64_t deadline_ns);

  // Decode steps (engine_step.cc).
  void Step(const StepCommand& command);
  std::vector<Sequence*> PickRows(const StepCommand& command);
  void RunBatch(std::span<Sequence* const> batch, int64_t timeout_ns,
                std::vector<SequenceTokens>* tokens);
  void AccountRow(Sequence& sequence, const StepRow& row);
  // Takes the sequence's next token from these logits. False if they are not finite: the sequence
  // has failed then.
  bool TakeToken(Sequence& sequence, std::span<const float> logits);
  // Likewise, of what the device has chosen.
  bool TakeSample(Sequence& sequence, const DeviceSample& sample);
  bool Take(Sequence& sequence, const SampledToken& sampled);
  SequenceTokens LatestToken(const Sequence& sequence) const;

  void OnPartial(NodeIdx node, const FrameHeader& header, const PartialFrameView& partial) override;
  void OnAck(NodeIdx node, const FrameHeader& header, const AckBody& ack) override;
  void OnRejected(NodeIdx node, const ErrorBody& error, std::string_view text) override;
  void OnNodeFailed(NodeIdx node, const absl::Status& status) override;
  void FailFrom(const SpillFailure& failure);

  const EngineOptions options;
  Device* const device;
  DataPlane* const data_plane;
  const Clock* const clock;
  EngineEvents* const events;
  EngineMetrics* const metrics;  // may be null
  RemoteNodes nodes;
  SpillSender spill;
  DecodeStep step;

  // In order of id, so that nothing depends on hashing.
  std::map<SequenceId, std::unique_ptr<Sequence>> sequences;
  std::deque<SequenceId> prefill_queue;  // the front one is being prefilled
  std::unique_ptr<PrefillJob> prefill;
  int64_t progress_ns = 0;       // of the last progress event
  uint32_t progress_layers = 0;  // likewise
  int64_t housekeeping_ns = 0;
};

}  // namespace tributary

// Internals of DecodeEngine: decode_engine.cc has a sequence's life, engine_step.cc its decode
// steps, engine_append.cc its later turns.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "gpu_worker/engine/decode_engine.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/remote/engine_metrics.h"
#include "gpu_worker/spill/prefill_job.h"
#include "gpu_worker/step/decode_step.h"

namespace tributary {

struct DecodeEngine::Impl final : NodeListener {
  Impl(const EngineOptions& options, Device* device, DataPlane* data_plane, NodeConnector* connector,
       const Clock* clock, EngineEvents* events, EngineMetrics* metrics, StepTrace* trace);

  // A sequence's life (decode_engine.cc).
  void Start(SequencePlan plan);
  // Everything that may refuse a sequence. Sets *blamed to the node if one is to blame.
  absl::StatusOr<std::unique_ptr<Sequence>> Admit(SequencePlan plan, std::string* blamed);
  void Stop(SequenceId id, Epoch epoch);
  void StopAll();
  bool RunOnce();
  bool RunPrefill();
  void ReportProgress(SequenceId id);
  bool FinishDraining();
  void FailOverdue();
  // Ends the sequences that have failed or are complete.
  void EndDone();
  void End(SequenceId id, const absl::Status& status, NodeIdx node, bool report);
  // Adds the bytes of its spills.
  void TakeTraffic(Sequence& sequence);
  void CountFailure(const absl::Status& status);
  void UpdateGauges();

  // Spills of blocks that leave their windows (engine_step.cc).
  void BeginSpills();
  bool PumpSpills();
  // Makes room in the window if its oldest block is acknowledged. False if there is none.
  bool TryMakeRoom(Sequence& sequence);
  // Waits until the sequence can append; fails it at the deadline.
  void MakeRoom(Sequence& sequence, int64_t deadline_ns);

  // Decode steps (engine_step.cc).
  void Step(const StepCommand& command);
  // Some successive tokens of a sequence, in one step.
  struct BatchEntry {
    Sequence* sequence = nullptr;
    uint32_t num_tokens = 1;
  };
  std::vector<Sequence*> PickRows(const StepCommand& command);
  // In batches that the device takes; the tokens of one entry stay together.
  void RunBatches(std::span<const BatchEntry> entries, int64_t timeout_ns, std::vector<SequenceTokens>* tokens);
  void RunBatch(std::span<const BatchEntry> batch, int64_t timeout_ns, std::vector<SequenceTokens>* tokens);
  void AddRows(const BatchEntry& entry, std::vector<StepRow>* rows);
  // Takes a token from what the device made of the row, which is number row_idx of the batch.
  bool TakeRow(Sequence& sequence, const StepRow& row, size_t row_idx, std::span<const float> logits);
  void AccountRow(Sequence& sequence, const StepRow& row);
  void AccountStages(std::span<const BatchEntry> batch);
  // Takes the sequence's next token from these logits. False if they are not finite: the sequence
  // has failed then.
  bool TakeToken(Sequence& sequence, std::span<const float> logits);
  // Likewise, of what the device has chosen.
  bool TakeSample(Sequence& sequence, const DeviceSample& sample);
  bool Take(Sequence& sequence, const SampledToken& sampled);
  SequenceTokens LatestToken(const Sequence& sequence) const;

  // Later turns (engine_append.cc).
  void Keep(Sequence& sequence);
  void Continue(ContinuePlan plan);
  // The next chunk of each sequence that has tokens to append and room for one.
  void AddAppends(std::vector<BatchEntry>* entries);
  // A step of appended tokens alone. False if there were none.
  bool RunAppends();
  // `num_tokens` have been appended; the last of all gives the answer's first token.
  void FinishAppend(Sequence& sequence, uint32_t num_tokens, const StepRow& row, size_t row_idx,
                    std::span<const float> logits);

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
  bool has_appended = false;  // in a step since the last RunOnce
};

}  // namespace tributary

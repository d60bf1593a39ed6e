#include "gpu_worker/engine/prefill_queue.h"

#include <algorithm>

namespace tributary {

void PrefillQueue::Forget(const Sequence& sequence) {
  if (job_ != nullptr && queue_.front() == &sequence) job_.reset();
  std::erase(queue_, &sequence);
}

void PrefillQueue::Begin(Sequence& sequence) {
  sequence.Apply(SequenceEvent::kBeginPrefill);
  const PrefillInput input{.prompt = sequence.plan.first_prompt(),
                           .kv_dtype = sequence.plan.kv_dtype,
                           .resident = sequence.resident,
                           .cache = &sequence.cache,
                           .shards = sequence.shards,
                           .layers = options_.model.layers(),
                           .num_kv_heads = options_.model.shape.num_kv_heads,
                           .head_dim = options_.model.shape.head_dim,
                           .spill_frame_bytes = options_.spill_frame_bytes};
  job_ = std::make_unique<PrefillJob>(input, device_, spill_);
  progress_layers_ = 0;
  progress_ns_ = clock_->NowNs();
}

bool PrefillQueue::HasItsNodes(const Sequence& sequence) const {
  const auto is_pairing = [this](const ShardHolder& holder) {
    return !holder.lost && nodes_->state(holder.node) == RemoteNodes::State::kPairing;
  };
  return std::none_of(sequence.shards.begin(), sequence.shards.end(), [&](const BoundShard& shard) {
    return std::any_of(shard.holders.begin(), shard.holders.end(), is_pairing);
  });
}

bool PrefillQueue::Run() {
  if (job_ == nullptr) {
    // The first whose nodes are all connected: the others do not wait for those of one.
    const auto ready =
        std::find_if(queue_.begin(), queue_.end(), [this](const Sequence* sequence) { return HasItsNodes(*sequence); });
    if (ready == queue_.end()) return false;
    std::rotate(queue_.begin(), ready, ready + 1);
    Begin(*queue_.front());
  }
  Sequence& sequence = *queue_.front();
  const absl::StatusOr<PrefillJob::Progress> progress = job_->RunUnit();
  if (!progress.ok()) {
    sequence.Fail(progress.status(), kNoNode);
    return true;
  }
  if (*progress == PrefillJob::Progress::kDone) {
    // The token waits for the acknowledgements, and the device is free for the next prompt
    // meanwhile.
    if (!sequence.is_rebuilt()) tokens_->Take(sequence, job_->logits());
    job_.reset();
    queue_.pop_front();
    sequence.Apply(SequenceEvent::kEndPrefill);
    events_->OnPrefillProgress(sequence.id(), options_.model.num_layers, options_.model.num_layers, 1.0);
    return true;
  }
  ReportProgress(sequence.id());
  return *progress == PrefillJob::Progress::kWorked;
}

void PrefillQueue::ReportProgress(SequenceId id) {
  const int64_t now_ns = clock_->NowNs();
  if (job_->layers_done() == progress_layers_ && now_ns - progress_ns_ < kProgressIntervalNs) return;
  progress_layers_ = job_->layers_done();
  progress_ns_ = now_ns;
  events_->OnPrefillProgress(id, progress_layers_, options_.model.num_layers, job_->fraction());
}

bool PrefillQueue::BeginDecoding(const SequenceTable& sequences) {
  bool worked = false;
  sequences.ForEach([&](Sequence& sequence) {
    if (!sequence.is(SequenceState::kDraining) || !sequence.failure.ok() || spill_->in_flight(sequence.id()) != 0) {
      return;
    }
    const int64_t now_ns = clock_->NowNs();
    if (metrics_ != nullptr) metrics_->prefill_duration.Observe(SecondsFromNs(now_ns - sequence.started_ns));
    worked = true;
    if (!sequence.append.empty()) return sequence.Apply(SequenceEvent::kReplay);
    sequence.BeginAnswer(SequenceEvent::kAcknowledged, now_ns);
    if (!sequence.is_rebuilt()) events_->OnTokens(TokenTaker::Latest(sequence));
  });
  return worked;
}

}  // namespace tributary

#include "gpu_worker/engine/prefill_queue.h"

#include <algorithm>
#include <utility>

namespace tributary {
namespace {

// More would only hold memory: all but two wait for their turn.
constexpr size_t kMaxPrefillsAtOnce = 8;

}  // namespace

void PrefillQueue::Push(Sequence* sequence) {
  const PrefillInput input{.prompt = sequence->plan.first_prompt(),
                           .kv_dtype = sequence->plan.kv_dtype,
                           .resident = sequence->resident,
                           .cache = &sequence->cache,
                           .shards = sequence->shards,
                           .layers = options_.model.layers(),
                           .num_q_heads = options_.model.shape.num_q_heads,
                           .num_kv_heads = options_.model.shape.num_kv_heads,
                           .head_dim = options_.model.shape.head_dim,
                           .spill_frame_bytes = options_.spill_frame_bytes};
  entries_.push_back({sequence, std::make_unique<PrefillJob>(input, device_, spill_)});
}

void PrefillQueue::Forget(const Sequence& sequence) {
  std::erase_if(entries_, [&](const Entry& entry) { return entry.sequence == &sequence; });
}

bool PrefillQueue::HasItsNodes(const Sequence& sequence) const {
  const auto is_pairing = [this](const ShardHolder& holder) {
    return !holder.lost && nodes_->state(holder.node) == RemoteNodes::State::kPairing;
  };
  return std::none_of(sequence.shards.begin(), sequence.shards.end(), [&](const BoundShard& shard) {
    return std::any_of(shard.holders.begin(), shard.holders.end(), is_pairing);
  });
}

bool PrefillQueue::HasRoom(const Entry& entry) const {
  uint64_t tokens = entry.job->prompt_tokens();
  size_t num_begun = 0;
  for (const Entry& other : entries_) {
    if (&other == &entry) continue;
    num_begun += other.job->has_begun();
    if (other.job->has_begun() || &other == &entries_.front()) tokens += other.job->prompt_tokens();
  }
  return num_begun == 0 || (num_begun < kMaxPrefillsAtOnce && tokens <= MaxPrefillTokensAtOnce(device_->limits()));
}

std::vector<size_t> PrefillQueue::Choose() const {
  std::vector<size_t> order;
  for (size_t i = 0; i < entries_.size(); ++i) {
    const Entry& entry = entries_[i];
    if (entry.job->has_begun() || (HasItsNodes(*entry.sequence) && HasRoom(entry))) order.push_back(i);
  }
  if (order.empty()) return order;
  const size_t first = order.front();
  std::stable_sort(order.begin(), order.end(),
                   [this](size_t a, size_t b) { return entries_[a].job->work_left() < entries_[b].job->work_left(); });
  // By turns: the first to have come, unless it is ahead of the shortest.
  const auto first_at = std::find(order.begin(), order.end(), first);
  if (lead_ <= 0) std::rotate(order.begin(), first_at, first_at + 1);
  return order;
}

bool PrefillQueue::Run() {
  const std::vector<size_t> order = Choose();
  if (order.empty()) return false;
  const size_t first = *std::min_element(order.begin(), order.end());
  const auto shortest = std::min_element(order.begin(), order.end(), [this](size_t a, size_t b) {
    const double work_a = entries_[a].job->work_left(), work_b = entries_[b].job->work_left();
    return std::pair(work_a, a) < std::pair(work_b, b);
  });
  if (*shortest == first) lead_ = 0;
  for (const size_t idx : order) {
    const double before = entries_[idx].job->work_left();
    const size_t num_entries = entries_.size();
    if (!RunUnit(idx)) continue;
    const double done = entries_.size() < num_entries ? before : before - entries_[idx].job->work_left();
    if (*shortest != first) lead_ += idx == first ? done : -done;
    return true;
  }
  return false;
}

bool PrefillQueue::RunUnit(size_t entry_idx) {
  Entry& entry = entries_[entry_idx];
  const bool begins = !entry.job->has_begun();
  const absl::StatusOr<PrefillJob::Progress> progress = entry.job->RunUnit();
  if (!progress.ok()) {
    const bool others_hold_memory = std::any_of(entries_.begin(), entries_.end(), [&](const Entry& other) {
      return &other != &entry && other.job->has_begun();
    });
    if (begins && others_hold_memory && absl::IsResourceExhausted(progress.status())) return false;
    entry.sequence->Fail(progress.status(), kNoNode);
    return true;
  }
  if (begins) {
    entry.sequence->Apply(SequenceEvent::kBeginPrefill);
    entry.progress_ns = clock_->NowNs();
  }
  if (*progress == PrefillJob::Progress::kDone) {
    End(entry_idx);
    return true;
  }
  ReportProgress(entry);
  return *progress == PrefillJob::Progress::kWorked;
}

void PrefillQueue::End(size_t entry_idx) {
  Entry& entry = entries_[entry_idx];
  Sequence& sequence = *entry.sequence;
  // The token waits for the acknowledgements; the device is free for the next prompt meanwhile.
  if (!sequence.is_rebuilt()) tokens_->Take(sequence, entry.job->logits());
  entries_.erase(entries_.begin() + static_cast<ptrdiff_t>(entry_idx));
  sequence.Apply(SequenceEvent::kEndPrefill);
  events_->OnPrefillProgress(sequence.id(), options_.model.num_layers, options_.model.num_layers, 1.0);
}

void PrefillQueue::ReportProgress(Entry& entry) {
  const int64_t now_ns = clock_->NowNs();
  const uint32_t layers_done = entry.job->layers_done();
  if (layers_done == entry.progress_layers && now_ns - entry.progress_ns < kProgressIntervalNs) return;
  entry.progress_layers = layers_done;
  entry.progress_ns = now_ns;
  events_->OnPrefillProgress(entry.sequence->id(), layers_done, options_.model.num_layers, entry.job->fraction());
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

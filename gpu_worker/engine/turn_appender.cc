#include "gpu_worker/engine/turn_appender.h"

#include <algorithm>
#include <utility>

#include "base/status.h"
#include "fmt/format.h"
#include "gpu_worker/engine/stall_watch.h"

namespace tributary {

absl::Status TurnAppender::Begin(Sequence& sequence, TurnPlan turn) {
  if (!NextState(sequence.state(), SequenceEvent::kContinue).has_value()) {
    return absl::InternalError(fmt::format("sequence {} was continued during a turn: it is {}", sequence.id().value,
                                           SequenceStateName(sequence.state())));
  }
  ContinuePlan plan{.sequence_id = sequence.id(), .epoch = sequence.plan.epoch, .turn = std::move(turn)};
  TRIBUTARY_RETURN_IF_ERROR(
      Validate(plan, sequence.context_tokens(), sequence.plan.max_context_tokens(), options_.model));
  sequence.BeginTurn(std::move(plan.turn), clock_->NowNs());
  return absl::OkStatus();
}

void TurnAppender::AddChunks(std::vector<BatchEntry>* entries) {
  sequences_->ForEach([&](Sequence& sequence) {
    if (!sequence.is(SequenceState::kAppending) || !sequence.failure.ok()) return;
    if (StalledOn(sequence, *nodes_, *sender_) != kNoNode || !spills_->TryMakeRoom(sequence)) return;
    const uint64_t num_left = sequence.append_segments.front().end - sequence.num_appended;
    const uint32_t most = sequence.replays_answer() ? 1 : options_.append_chunk_tokens;
    entries->push_back(
        {&sequence, static_cast<uint32_t>(std::min<uint64_t>({most, num_left, sequence.cache.append_room()}))});
  });
}

void TurnAppender::EndChunk(const BatchEntry& entry, const StepRow& row, size_t row_idx,
                            std::span<const float> logits) {
  Sequence& sequence = *entry.sequence;
  sequence.Appended(entry.num_tokens);
  sequence.softmax_tokens = row.resident_tokens;  // the last row is the one that a device averages
  if (metrics_ != nullptr) metrics_->appended_tokens.Increment(entry.num_tokens);
  const int64_t now_ns = clock_->NowNs();
  if (sequence.num_appended < sequence.append.size()) return ReportProgress(sequence, now_ns);
  const bool is_complete = sequence.is_answered_before();
  if (!is_complete && !tokens_->TakeRow(sequence, row, row_idx, logits)) return;
  sequence.append = {};
  sequence.BeginAnswer(SequenceEvent::kAppended, now_ns);
  if (!is_complete) events_->OnTokens(TokenTaker::Latest(sequence));
}

void TurnAppender::ReportProgress(Sequence& sequence, int64_t now_ns) {
  if (now_ns - sequence.progress_ns < kProgressIntervalNs) return;
  sequence.progress_ns = now_ns;
  events_->OnPrefillProgress(sequence.id(), 0, options_.model.num_layers,
                             static_cast<double>(sequence.num_appended) / static_cast<double>(sequence.append.size()));
}

}  // namespace tributary

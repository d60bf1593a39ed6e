// Later turns of DecodeEngine's sequences: kept after an answer, continued with new tokens.
//
// The tokens of a turn are appended as decode steps take theirs, several successive ones at a time.
// A chunk ends where a block leaves the window, so that its rows have one remote range, and the
// rows' K and V are all appended before any of them attends, each to its own slot and no further.
// Where chunks end depends on the sequence alone, never on what else runs.
#include <algorithm>
#include <utility>

#include "fmt/format.h"
#include "gpu_worker/engine/decode_engine_impl.h"

namespace tributary {
namespace {

constexpr int64_t kProgressIntervalNs = 250 * kNsPerMs;

}  // namespace

void DecodeEngine::Impl::Keep(Sequence& sequence) {
  TakeTraffic(sequence);
  sequence.state = SequenceState::kKept;
  events->OnKept(sequence.id(), MakeSummary(sequence, nodes));
}

void DecodeEngine::Impl::Continue(ContinuePlan plan) {
  const SequenceId id = plan.sequence_id;
  const auto it = sequences.find(id);
  if (it == sequences.end() || it->second->plan.epoch != plan.epoch) {
    const absl::Status unknown =
        absl::NotFoundError(fmt::format("sequence {} at epoch {} is not kept here", id.value, plan.epoch.value));
    events->OnEnded(id, unknown, "", {});
    return;
  }
  Sequence& sequence = *it->second;
  if (!sequence.failure.ok()) return;  // it is about to end
  absl::Status status = Validate(plan, sequence.context_tokens(), sequence.plan.max_context_tokens(), options.model);
  if (sequence.state != SequenceState::kKept) {
    status = absl::InternalError(fmt::format("sequence {} was continued during a turn", id.value));
  }
  if (!status.ok()) {
    End(id, status, kNoNode, /*report=*/true);
    return;
  }
  sequence.BeginTurn(std::move(plan.turn), clock->NowNs());
  BeginSpills();  // a full window may have waited for this turn
}

void DecodeEngine::Impl::AddAppends(std::vector<BatchEntry>* entries) {
  for (auto& [id, sequence] : sequences) {
    if (sequence->state != SequenceState::kAppending || !sequence->failure.ok()) continue;
    // Others do not wait for a block of this one to be acknowledged.
    if (!TryMakeRoom(*sequence)) continue;
    const uint64_t num_left = sequence->append.size() - sequence->num_appended;
    entries->push_back({sequence.get(), static_cast<uint32_t>(std::min<uint64_t>(
                                            {options.append_chunk_tokens, num_left, sequence->cache.append_room()}))});
  }
}

bool DecodeEngine::Impl::RunAppends() {
  if (std::exchange(has_appended, false)) return true;  // decode steps go on: they take them along
  std::vector<BatchEntry> entries;
  AddAppends(&entries);
  if (entries.empty()) return false;
  std::vector<SequenceTokens> no_tokens;  // nothing decodes
  step.set_trace_id(0);
  RunBatches(entries, options.step_timeout_ns, &no_tokens);
  BeginSpills();
  return true;
}

void DecodeEngine::Impl::FinishAppend(Sequence& sequence, uint32_t num_tokens, const StepRow& row, size_t row_idx,
                                      std::span<const float> logits) {
  sequence.num_appended += num_tokens;
  sequence.softmax_tokens = row.resident_tokens;  // the last row is the one that a device averages
  if (metrics != nullptr) metrics->appended_tokens.Increment(num_tokens);
  const int64_t now_ns = clock->NowNs();
  if (sequence.num_appended < sequence.append.size()) {
    if (now_ns - sequence.progress_ns < kProgressIntervalNs) return;
    sequence.progress_ns = now_ns;
    events->OnPrefillProgress(sequence.id(), 0, options.model.num_layers,
                              static_cast<double>(sequence.num_appended) / static_cast<double>(sequence.append.size()));
    return;
  }
  if (!TakeRow(sequence, row, row_idx, logits)) return;
  sequence.append = {};
  sequence.state = SequenceState::kDecoding;
  sequence.first_token_ns = sequence.last_token_ns = now_ns;
  events->OnTokens(LatestToken(sequence));
}

}  // namespace tributary

#include "gpu_worker/engine/step_runner.h"

#include <algorithm>
#include <utility>

#include "base/limits.h"
#include "gpu_worker/engine/stall_watch.h"

namespace tributary {

void StepRunner::Step(const StepCommand& command, int64_t begin_ns) {
  const int64_t asked_ns = command.timeout_ns > 0 ? command.timeout_ns : options_.step_timeout_ns;
  const int64_t timeout_ns = std::min(asked_ns, int64_t{limits::kMaxStepTimeoutMs} * kNsPerMs);
  tokens_.clear();
  PickRows(command);
  for (const BatchEntry& entry : entries_) parts_.spills->MakeRoom(*entry.sequence, begin_ns + timeout_ns, timeout_ns);
  std::erase_if(entries_, [](const BatchEntry& entry) {
    return !entry.sequence->failure.ok() || !entry.sequence->cache.CanAppend();
  });
  const size_t num_rows = entries_.size();

  parts_.step->set_trace_id(command.step_id.value);
  parts_.appender->AddChunks(&entries_);
  has_appended_ |= entries_.size() > num_rows;
  RunBatches(timeout_ns);
  parts_.spills->BeginDue();
  const double step_s = SecondsFromNs(parts_.clock->NowNs() - begin_ns);
  parts_.account->AddStep(num_rows, step_s);
  parts_.events->OnStepDone(command.step_id, tokens_, step_s);
}

bool StepRunner::RunAppends() {
  if (std::exchange(has_appended_, false)) return true;  // decode steps go on: they take them along
  entries_.clear();
  tokens_.clear();
  parts_.appender->AddChunks(&entries_);
  if (entries_.empty()) return false;
  parts_.step->set_trace_id(0);
  RunBatches(options_.step_timeout_ns);
  parts_.spills->BeginDue();
  return true;
}

void StepRunner::PickRows(const StepCommand& command) {
  entries_.clear();
  for (const SequenceId id : command.sequence_ids) {
    Sequence* sequence = parts_.sequences->Find(id);
    if (sequence == nullptr || !sequence->is(SequenceState::kDecoding) || !sequence->failure.ok()) continue;
    if (StalledOn(*sequence, *parts_.nodes, *parts_.sender) != kNoNode) continue;
    const bool is_new = std::none_of(entries_.begin(), entries_.end(),
                                     [&](const BatchEntry& entry) { return entry.sequence == sequence; });
    if (is_new) entries_.push_back({sequence, 1});
  }
}

void StepRunner::RunBatches(int64_t timeout_ns) {
  const size_t max_batch = parts_.device->limits().max_batch;
  for (size_t begin = 0; begin < entries_.size();) {
    size_t end = begin;
    for (size_t rows = 0; end < entries_.size(); ++end) {
      rows += entries_[end].num_tokens;
      if (rows > max_batch) break;
    }
    RunBatch(std::span(entries_).subspan(begin, end - begin), timeout_ns);
    begin = end;
  }
}

void StepRunner::RunBatch(std::span<const BatchEntry> batch, int64_t timeout_ns) {
  rows_.clear();
  for (const BatchEntry& entry : batch) AddRows(entry);
  const std::span<const float> logits = parts_.step->Run(rows_, timeout_ns);
  size_t row_idx = 0;
  for (const BatchEntry& entry : batch) {
    EndEntry(entry, row_idx, logits);
    row_idx += entry.num_tokens;
  }
  parts_.step->EndSample();
  parts_.account->AddStages(batch, *parts_.step);
}

void StepRunner::AddRows(const BatchEntry& entry) {
  Sequence& sequence = *entry.sequence;
  const bool appends = sequence.is(SequenceState::kAppending);
  const size_t num_left = appends ? sequence.append.size() - sequence.num_appended : 1;
  for (uint32_t i = 0; i < entry.num_tokens; ++i) {
    StepRow& row = rows_.emplace_back();
    row.device.token = appends ? sequence.append[sequence.num_appended + i] : sequence.sampled.token;
    row.device.pos = sequence.cache.context_tokens();
    row.device.resident = sequence.resident;
    row.device.append_slot = sequence.cache.Append();
    row.device.attend = sequence.cache.AttendRanges();
    if (const uint32_t tokens = options_.model.sliding_window_tokens; tokens != 0) {
      row.device.attend_windowed = sequence.cache.NewestRanges(tokens);
    }
    row.device.wants_logits = i + 1 == num_left && parts_.tokens->NeedsLogits(sequence);
    row.device.sampling = sequence.device_sampling();
    row.device.step_tokens = i + 1 == entry.num_tokens ? entry.num_tokens : 0;
    row.query_rows = i == 0 ? entry.num_tokens : 0;
    if (appends) row.query_flags = sequence.AppendFlags(entry.num_tokens);
    row.shards = sequence.shards;
    row.facet = sequence.facet;
    row.remote = sequence.cache.remote();
    row.context_tokens = sequence.cache.context_tokens();
    row.resident_tokens = sequence.cache.resident_tokens();
    if (!appends || sequence.replays_answer()) row.quality = sequence.quality.get();
    row.may_repeat = sequence.may_repeat_steps();
    row.max_stall_ns = MaxStallNs(sequence.plan, options_);
  }
}

void StepRunner::EndEntry(const BatchEntry& entry, size_t row_idx, std::span<const float> logits) {
  Sequence& sequence = *entry.sequence;
  const StepRow& row = rows_[row_idx];
  const size_t last_idx = row_idx + entry.num_tokens - 1;
  parts_.account->AddRow(sequence, row);
  if (row.parked) {
    sequence.Park(entry.num_tokens, row.failed_node, parts_.nodes->patient_now_ns());
    return;
  }
  sequence.Unpark();
  if (!row.status.ok()) {
    sequence.Fail(row.status, row.failed_node);
  } else if (sequence.is(SequenceState::kAppending)) {
    parts_.appender->EndChunk(entry, rows_[last_idx], last_idx, logits);
  } else if (parts_.tokens->TakeRow(sequence, row, row_idx, logits)) {
    sequence.last_token_ns = parts_.clock->NowNs();
    sequence.ApplyIfAnswered();
    tokens_.push_back(TokenTaker::Latest(sequence));
  }
}

}  // namespace tributary

// Decode steps of DecodeEngine, and the spills that they cause.
#include <algorithm>
#include <cmath>
#include <set>

#include "base/limits.h"
#include "fmt/format.h"
#include "gpu_worker/engine/decode_engine_impl.h"

namespace tributary {

void DecodeEngine::Impl::Step(const StepCommand& command) {
  const int64_t begin_ns = clock->NowNs();
  const int64_t asked_ns = command.timeout_ns > 0 ? command.timeout_ns : options.step_timeout_ns;
  const int64_t timeout_ns = std::min(asked_ns, int64_t{limits::kMaxStepTimeoutMs} * kNsPerMs);
  nodes.Poll();
  FailOverdue();
  FinishDraining();
  std::vector<Sequence*> rows = PickRows(command);
  for (Sequence* sequence : rows) MakeRoom(*sequence, begin_ns + timeout_ns);
  std::erase_if(rows, [](const Sequence* sequence) { return !sequence->failure.ok(); });

  std::vector<SequenceTokens> tokens;
  step.set_trace_id(command.step_id.value);
  std::vector<BatchEntry> entries;
  for (Sequence* sequence : rows) entries.push_back({sequence, 1});
  AddAppends(&entries);
  has_appended |= entries.size() > rows.size();
  RunBatches(entries, timeout_ns, &tokens);
  BeginSpills();
  const double step_s = SecondsFromNs(clock->NowNs() - begin_ns);
  if (metrics != nullptr && !rows.empty()) {
    metrics->step_duration.Observe(step_s);
    metrics->batch_size.Observe(static_cast<double>(rows.size()));
  }
  events->OnStepDone(command.step_id, tokens, step_s);
  EndDone();
  UpdateGauges();
}

std::vector<Sequence*> DecodeEngine::Impl::PickRows(const StepCommand& command) {
  std::vector<Sequence*> rows;
  std::set<SequenceId> seen;
  for (const SequenceId id : command.sequence_ids) {
    const auto it = sequences.find(id);
    if (it == sequences.end() || !seen.insert(id).second) continue;
    Sequence& sequence = *it->second;
    const bool complete = sequence.FinishReason()[0] != '\0';
    if (sequence.state == SequenceState::kDecoding && sequence.failure.ok() && !complete) rows.push_back(&sequence);
  }
  return rows;
}

bool DecodeEngine::Impl::TryMakeRoom(Sequence& sequence) {
  if (sequence.cache.CanAppend()) return true;
  if (!sequence.spill->all_sent || spill.in_flight(sequence.id()) != 0) return false;
  sequence.cache.Release();
  sequence.spill.reset();
  return true;
}

void DecodeEngine::Impl::MakeRoom(Sequence& sequence, int64_t deadline_ns) {
  IdleStrategy idle(options.idle, clock);
  while (sequence.failure.ok() && !TryMakeRoom(sequence)) {
    const int events_handled = nodes.Poll() + (PumpSpills() ? 1 : 0);
    if (events_handled == 0 && clock->NowNs() >= deadline_ns) {
      const NodeIdx node = spill.SlowestNode(sequence.id());
      sequence.Fail(absl::DeadlineExceededError(fmt::format("tokens [{}, {}) were not acknowledged within the step's "
                                                            "deadline, so the window is full",
                                                            sequence.spill->block.begin, sequence.spill->block.end)),
                    node != kNoNode ? node : sequence.shards[sequence.spill->shard_idx].node);
    }
    idle.AfterPoll(events_handled, *data_plane);
  }
}

void DecodeEngine::Impl::RunBatches(std::span<const BatchEntry> entries, int64_t timeout_ns,
                                    std::vector<SequenceTokens>* tokens) {
  const size_t max_batch = device->limits().max_batch;
  for (size_t begin = 0; begin < entries.size();) {
    size_t end = begin;
    for (size_t rows = 0; end < entries.size(); ++end) {
      rows += entries[end].num_tokens;
      if (rows > max_batch) break;
    }
    RunBatch(entries.subspan(begin, end - begin), timeout_ns, tokens);
    begin = end;
  }
}

void DecodeEngine::Impl::RunBatch(std::span<const BatchEntry> batch, int64_t timeout_ns,
                                  std::vector<SequenceTokens>* tokens) {
  std::vector<StepRow> rows;
  for (const BatchEntry& entry : batch) AddRows(entry, &rows);
  const std::span<const float> logits = step.Run(rows, timeout_ns);

  size_t row_idx = 0;
  for (const BatchEntry& entry : batch) {
    Sequence& sequence = *entry.sequence;
    const StepRow& row = rows[row_idx];
    const size_t last_idx = row_idx + entry.num_tokens - 1;
    AccountRow(sequence, row);
    if (!row.status.ok()) {
      sequence.Fail(row.status, row.failed_node);
    } else if (sequence.state == SequenceState::kAppending) {
      FinishAppend(sequence, entry.num_tokens, rows[last_idx], last_idx, logits);
    } else if (TakeRow(sequence, row, row_idx, logits)) {
      sequence.last_token_ns = clock->NowNs();
      tokens->push_back(LatestToken(sequence));
    }
    row_idx += entry.num_tokens;
  }
  step.EndSample();
  AccountStages(batch);
}

void DecodeEngine::Impl::AddRows(const BatchEntry& entry, std::vector<StepRow>* rows) {
  Sequence& sequence = *entry.sequence;
  const bool appends = sequence.state == SequenceState::kAppending;
  const size_t num_left = appends ? sequence.append.size() - sequence.num_appended : 1;
  for (uint32_t i = 0; i < entry.num_tokens; ++i) {
    StepRow& row = rows->emplace_back();
    row.device.token = appends ? sequence.append[sequence.num_appended + i] : sequence.sampled.token;
    row.device.pos = sequence.cache.context_tokens();
    row.device.resident = sequence.resident;
    row.device.append_slot = sequence.cache.Append();
    row.device.attend = sequence.cache.AttendRanges();
    row.device.wants_logits =
        i + 1 == num_left && (!device->samples() || options.logits_observer != nullptr || sequence.next_needs_logits());
    row.device.sampling = sequence.device_sampling();
    row.device.step_tokens = i + 1 == entry.num_tokens ? entry.num_tokens : 0;
    row.query_rows = i == 0 ? entry.num_tokens : 0;
    if (appends) row.query_flags = sequence.AppendFlags(entry.num_tokens);
    row.shards = sequence.shards;
    row.facet = sequence.facet;
    row.remote = sequence.cache.remote();
    row.context_tokens = sequence.cache.context_tokens();
    row.resident_tokens = sequence.cache.resident_tokens();
    if (!appends) row.quality = sequence.quality.get();
  }
}

bool DecodeEngine::Impl::TakeRow(Sequence& sequence, const StepRow& row, size_t row_idx,
                                 std::span<const float> logits) {
  const size_t vocab = options.model.vocab_size;
  return row.device.wants_logits ? TakeToken(sequence, logits.subspan(row_idx * vocab, vocab))
                                 : TakeSample(sequence, device->sampled()[row_idx]);
}

void DecodeEngine::Impl::AccountStages(std::span<const BatchEntry> batch) {
  const StageTimes& times = step.stage_times();
  for (size_t stage = 0; stage < kNumStages; ++stage) {
    for (const BatchEntry& entry : batch) {
      if (entry.sequence->num_steps == 0) continue;  // it appended
      entry.sequence->stage_sums_ns[stage] += times[stage];
    }
    if (metrics != nullptr) metrics->stage_duration[stage].Observe(SecondsFromNs(times[stage]));
  }
  if (metrics != nullptr) {
    metrics->remote_exposed.Observe(SecondsFromNs(step.exposed_wait_ns()));
  }
}

void DecodeEngine::Impl::AccountRow(Sequence& sequence, const StepRow& row) {
  const double per_head = static_cast<double>(row.attended_head_tokens) /
                          (static_cast<double>(options.model.num_layers) * options.model.shape.num_kv_heads);
  sequence.bytes_sent += row.bytes_sent;
  sequence.bytes_received += row.bytes_received;
  if (row.status.ok()) sequence.softmax_tokens = row.resident_tokens;
  if (sequence.state != SequenceState::kDecoding) return;
  ++sequence.num_steps;
  sequence.attended_tokens_sum += static_cast<double>(row.resident_tokens) + per_head;
  if (!row.status.ok()) return;
  if (row.quality == nullptr || row.remote.empty()) return;
  const uint64_t covered = row.remote.size() * options.model.num_layers * options.model.shape.num_kv_heads;
  row.quality->EndStep(row.attended_head_tokens, covered);
  if (metrics == nullptr) return;
  const auto heads = static_cast<double>(options.model.num_layers) * options.model.shape.num_kv_heads;
  metrics->sparse_covered.Increment(static_cast<double>(covered) / heads);
  metrics->sparse_attended.Increment(static_cast<double>(row.attended_head_tokens) / heads);
  if (!row.measured) return;
  metrics->kept_mass_mean.Observe(row.quality->step_kept_mass().mean());
  metrics->kept_mass_min.Observe(row.quality->step_kept_mass().minimum());
}

bool DecodeEngine::Impl::TakeToken(Sequence& sequence, std::span<const float> logits) {
  if (options.logits_observer) options.logits_observer(sequence.id(), sequence.generated_tokens, logits);
  if (!Take(sequence, sequence.Choose(logits))) return false;
  if (sequence.plan.top_logprobs > 0) {
    sequence.top = LikeliestTokens(logits, sequence.plan.top_logprobs);
  }
  return true;
}

bool DecodeEngine::Impl::TakeSample(Sequence& sequence, const DeviceSample& sample) {
  return Take(sequence, {sample.token, sample.logprob});
}

bool DecodeEngine::Impl::Take(Sequence& sequence, const SampledToken& sampled) {
  if (!std::isfinite(sampled.logprob)) {
    sequence.Fail(
        absl::InternalError(fmt::format("sequence {}: the logits of token {} are not finite: the model or its "
                                        "KV is damaged",
                                        sequence.id().value, sequence.generated_tokens)),
        kNoNode);
    return false;
  }
  sequence.sampled = sampled;  // not before: a bad token might look like a stop token
  ++sequence.generated_tokens;
  return true;
}

SequenceTokens DecodeEngine::Impl::LatestToken(const Sequence& sequence) const {
  SequenceTokens latest{sequence.id(), {sequence.sampled.token}, {static_cast<float>(sequence.sampled.logprob)}, {}};
  if (sequence.plan.top_logprobs > 0) latest.top.push_back(sequence.top);
  return latest;
}

void DecodeEngine::Impl::BeginSpills() {
  for (auto& [id, sequence] : sequences) {
    const bool grows = sequence->state == SequenceState::kAppending ||
                       (sequence->state == SequenceState::kDecoding && sequence->FinishReason()[0] == '\0');
    if (!grows || sequence->spill || !sequence->failure.ok()) continue;
    if (const auto block = sequence->cache.next_spill()) {
      sequence->spill = BeginBlockSpill(*sequence, *block);
    }
  }
  PumpSpills();
}

bool DecodeEngine::Impl::PumpSpills() {
  bool worked = spill.Pump() > 0;
  for (auto& [id, sequence] : sequences) {
    if (!sequence->spill || sequence->spill->all_sent || !sequence->failure.ok()) continue;
    worked |= PumpSpill(*sequence, device, &spill, options.spill_frame_bytes);
  }
  return worked;
}

}  // namespace tributary

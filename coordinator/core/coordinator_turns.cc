// The kept sequences' part of CoordinatorCore: from the end of a turn to the next one, or to the end
// of the lease.
#include <algorithm>
#include <utility>

#include "base/clock.h"
#include "coordinator/core/coordinator_core.h"
#include "fmt/format.h"

namespace tributary {
namespace {

using Level = action::Log::Level;
using action::LeaseEnd;
using action::Outcome;

}  // namespace

void CoordinatorCore::On(event::WorkerKept& e) {
  HeardOf(e.stream);
  SequenceEntry* sequence = FindOf(e.stream, e.sequence_id);
  // One that is stopping ends by the worker's word.
  if (sequence == nullptr || sequence->state != SequencePhase::kDecoding) return;
  workers_.at(e.stream).scheduler.Leave(sequence->id);
  sequence->context_tokens += sequence->generated_tokens;
  absl::Status drains = Drains(*sequence);
  if (draining_) drains = absl::UnavailableError("the coordinator is shutting down");
  if (sequence->keep.asked() && drains.ok()) {
    sequence->state = SequencePhase::kKept;
    sequence->kept_until_ns = now_ns_ + sequence->keep.lease_ns;
    e.summary.kept = {sequence->request_id, sequence->keep.lease_ns, sequence->context_tokens,
                      sequence->reserved_context_tokens};
  }
  FinishTurn(*sequence, std::move(e.summary));
  if (sequence->state == SequencePhase::kKept) return;
  EndKept(*sequence, LeaseEnd::kDrained, drains);
}

void CoordinatorCore::Continue(event::Generate& e) {
  if (draining_) {
    Reject(e.call, absl::UnavailableError("this coordinator is shutting down and keeps no sequences"), "draining",
           false);
    return;
  }
  SequenceEntry* sequence = nullptr;
  if (absl::Status status = FindContinued(e.spec, &sequence); !status.ok()) {
    Reject(e.call, std::move(status), "invalid", false);
    return;
  }
  actions_.push_back(action::EndLease{sequence->request_id, sequence->id, LeaseEnd::kContinued});
  ++sequence->num_turns;
  sequence->state = SequencePhase::kPrefilling;
  sequence->keep = e.spec.keep;
  sequence->context_tokens += e.spec.prompt_tokens.size();
  sequence->demand.prompt_tokens = e.spec.prompt_tokens.size();
  sequence->spec.max_tokens = e.spec.max_tokens;
  sequence->generated_tokens = 0;
  sequence->received_ns = sequence->placed_ns = sequence->started_ns = now_ns_;
  sequence->first_token_ns = sequence->last_token_ns = 0;
  sequences_.AttachClient(*sequence, e.call);
  actions_.push_back(
      action::Accepted{e.call, sequence->request_id, sequence->id, sequence->epoch, sequence->worker_id});
  actions_.push_back(action::ContinueSequence{*sequence->worker, sequence->id, sequence->epoch, std::move(e.spec)});
}

absl::Status CoordinatorCore::FindContinued(const GenerateSpec& spec, SequenceEntry** sequence) {
  EndExpired();
  const std::string& name = spec.continue_request_id;
  *sequence = sequences_.FindByRequest(name);
  if (*sequence == nullptr) {
    const std::string* why = ended_leases_.Find(name);
    return absl::NotFoundError(fmt::format("no kept sequence is named '{}'{}; send all tokens as a new request", name,
                                           why == nullptr ? " (it was never kept here, or long ago)" : ": " + *why));
  }
  const SequenceEntry& found = **sequence;
  if (found.state != SequencePhase::kKept) {
    return absl::FailedPreconditionError(
        fmt::format("request '{}' still runs ({}); continue it after its summary, or cancel it", name,
                    SequencePhaseName(found.state)));
  }
  return CheckContinuation(spec, {.geometry = found.demand.geometry,
                                  .placement = found.demand.placement,
                                  .policy = found.spec.resolved_policy,
                                  .context_tokens = found.context_tokens,
                                  .reserved_context_tokens = found.reserved_context_tokens});
}

void CoordinatorCore::EndLease(SequenceEntry& sequence, LeaseEnd end, const absl::Status& why) {
  const bool counted_on = sequence.keep.asked() || sequence.num_turns > 1;
  if (!counted_on || std::exchange(sequence.lease_ended, true)) return;
  ended_leases_.Add(sequence.request_id, std::string(why.message()));
  sequence.keep = {};
  sequences_.ForgetName(sequence);
  if (sequence.state != SequencePhase::kKept) return;
  actions_.push_back(action::EndLease{sequence.request_id, sequence.id, end});
  Log(end == LeaseEnd::kLost ? Level::kWarn : Level::kInfo, "sequence {} ('{}') is not kept any more: {}",
      sequence.id.value, sequence.request_id, std::string(why.message()));
}

void CoordinatorCore::EndKept(SequenceEntry& sequence, LeaseEnd end, const absl::Status& why) {
  EndLease(sequence, end, why);
  Fail(sequence, why, Outcome::kFailed);
}

void CoordinatorCore::EndExpired() {
  for (const SequenceId id : sequences_.Ids()) {
    SequenceEntry& sequence = *sequences_.Find(id);
    if (sequence.state != SequencePhase::kKept || now_ns_ < sequence.kept_until_ns) continue;
    EndKept(
        sequence, LeaseEnd::kExpired,
        absl::NotFoundError(fmt::format("its lease of {:.3f} s has expired", SecondsFromNs(sequence.keep.lease_ns))));
  }
}

void CoordinatorCore::EndDraining() {
  for (const SequenceId id : sequences_.Ids()) {
    SequenceEntry& sequence = *sequences_.Find(id);
    if (sequence.state != SequencePhase::kKept) continue;
    if (const absl::Status drains = Drains(sequence); !drains.ok()) {
      EndKept(sequence, LeaseEnd::kDrained, drains);
    }
  }
}

absl::Status CoordinatorCore::Drains(const SequenceEntry& sequence) const {
  const auto drains = [&](const std::string& node_id) {
    const Member* member = membership_.Find(node_id);
    return member != nullptr && member->state == MemberState::kDraining;
  };
  if (drains(sequence.worker_id)) {
    return absl::UnavailableError(fmt::format("its GPU worker '{}' is shutting down", sequence.worker_id));
  }
  for (const ShardPlacement& shard : sequence.shards) {
    for (const NodeEndpoint& holder : shard.holders) {
      if (!drains(holder.node_id)) continue;
      return absl::UnavailableError(
          fmt::format("CPU attention node '{}', which holds KV of it, is shutting down", holder.node_id));
    }
  }
  return absl::OkStatus();
}

uint32_t CoordinatorCore::NumKept() const {
  return static_cast<uint32_t>(std::count_if(sequences_.all().begin(), sequences_.all().end(),
                                             [](const auto& item) { return item.second->keep.asked(); }));
}

std::vector<KeptStatus> CoordinatorCore::KeptStatuses() const {
  std::vector<KeptStatus> kept;
  for (const auto& [id, sequence] : sequences_.all()) {
    if (sequence->state != SequencePhase::kKept) continue;
    KeptStatus& status = kept.emplace_back(KeptStatus{sequence->request_id, id, sequence->worker_id,
                                                      sequence->kept_until_ns, sequence->context_tokens,
                                                      sequence->reserved_context_tokens, sequence->resident_bytes});
    for (const ShardPlacement& shard : sequence->shards) {
      for (const NodeEndpoint& holder : shard.holders) {
        const Holding* holding = ledger_.Find(shard.spec.shard_id, holder.node_id);
        if (holding != nullptr) status.shard_bytes += holding->bytes;
      }
    }
  }
  return kept;
}

}  // namespace tributary

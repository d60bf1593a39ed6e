#include "coordinator/core/request_intake.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "base/clock.h"
#include "fmt/format.h"

namespace tributary {
namespace {

using action::Outcome;

std::string_view ReasonOf(const absl::Status& status) {
  return absl::IsUnavailable(status) ? "unavailable" : "exhausted";
}

// It would fit into what is there now, if nothing else were: it does not wait for a member to come or be heard again.
bool WaitsForMemory(ClusterRoom room, const Demand& demand) {
  for (WorkerRoom& worker : room.workers) worker.available_bytes = worker.capacity_bytes;
  for (NodeRoom& node : room.nodes) node.available_bytes = node.capacity_bytes;
  return tributary::Place(room, demand).status.ok();
}

}  // namespace

void RequestIntake::On(event::Generate& e) {
  if (!e.spec.continue_request_id.empty()) return Continue(e);
  std::string_view reason;
  if (absl::Status status = Admit(e.spec, &reason); !status.ok())
    return Reject(e.call, std::move(status), reason, false);
  if (const uint32_t num_kept = parts_.leases.num_asked();
      e.spec.lease.asked() && num_kept >= parts_.config.admission.max_kept) {
    return Reject(e.call,
                  absl::ResourceExhaustedError(
                      fmt::format("{} sequences are kept or will be, which is all that may be; try again later, "
                                  "without keep, or let go of one with Cancel",
                                  num_kept)),
                  "exhausted", true);
  }
  Demand demand = DemandOf(e.spec);
  const PlacementResult placed = tributary::Place(parts_.Room(), demand);
  if (!placed.status.ok() && !placed.may_wait) return Reject(e.call, placed.status, ReasonOf(placed.status), false);
  const uint32_t num_placed = parts_.num_placed();
  const bool starts_now =
      placed.status.ok() && parts_.queue.empty() && num_placed < parts_.config.admission.max_running;
  if (!starts_now && parts_.queue.full()) {
    return Reject(e.call,
                  absl::ResourceExhaustedError(
                      fmt::format("{} requests run and {} wait, which is all the queue takes; try again later",
                                  num_placed, parts_.queue.size())),
                  "exhausted", true);
  }
  Enqueue(e.call, std::move(e.spec), std::move(demand));
}

absl::Status RequestIntake::Admit(GenerateSpec& spec, std::string_view* reason) const {
  if (parts_.draining) {
    *reason = "draining";
    return absl::UnavailableError("this coordinator is shutting down and takes no new requests");
  }
  const std::optional<ServingLimits> limits = parts_.workers.Limits(parts_.membership);
  if (!limits) {
    *reason = "unavailable";
    return absl::UnavailableError(
        "no GPU worker takes requests (none is registered, or all are draining); start "
        "tributary-gpu-worker");
  }
  *reason = "invalid";
  spec.placement = ResolvePlacement(spec.placement, parts_.config.defaults);
  WidenWindow(limits->geometry, spec.placement);
  if (absl::Status status = CheckRequest(spec, *limits); !status.ok()) return status;
  absl::StatusOr<PolicyParams> policy = ResolveRequestPolicy(spec, *limits);
  if (!policy.ok()) return policy.status();
  spec.resolved_policy = *std::move(policy);
  if (absl::Status status = ResolveStall(spec); !status.ok()) return status;
  if (!spec.request_id.empty() && parts_.sequences.FindByRequest(spec.request_id) != nullptr) {
    return absl::AlreadyExistsError(
        fmt::format("request_id '{}' is in use by a running request or a kept sequence; choose another, or "
                    "continue the sequence with continue_request_id",
                    spec.request_id));
  }
  return absl::OkStatus();
}

absl::Status RequestIntake::ResolveStall(GenerateSpec& spec) const {
  const int64_t most_ns = parts_.config.max_stall_ns;
  if (spec.max_stall_ns < 0 || spec.max_stall_ns > most_ns) {
    return absl::InvalidArgumentError(
        fmt::format("max_stall is {:.3f} s; it must be above 0 and at most the cluster's, {:.3f} s (--max-stall-s of "
                    "the coordinator)",
                    SecondsFromNs(spec.max_stall_ns), SecondsFromNs(most_ns)));
  }
  if (spec.max_stall_ns == 0) spec.max_stall_ns = most_ns;
  return absl::OkStatus();
}

Demand RequestIntake::DemandOf(const GenerateSpec& spec) const {
  const uint64_t reserved_tokens =
      std::max<uint64_t>(spec.lease.max_context_tokens, spec.prompt_tokens.size() + spec.max_tokens);
  Demand demand;
  demand.geometry = parts_.workers.Limits(parts_.membership)->geometry;
  demand.prompt_tokens = spec.prompt_tokens.size();
  demand.max_context_tokens = reserved_tokens - 1;  // the last token is never fed back
  demand.placement = spec.placement;
  demand.policy = spec.resolved_policy;
  return demand;
}

void RequestIntake::Enqueue(CallId call, GenerateSpec spec, Demand demand) {
  SequenceEntry sequence;
  do {
    sequence.id = SequenceId(parts_.config.sequence_ids());
  } while (parts_.sequences.Find(sequence.id) != nullptr);
  sequence.client = call;
  sequence.request_id = spec.request_id.empty() ? fmt::format("request-{}", sequence.id.value) : spec.request_id;
  sequence.context_tokens = spec.prompt_tokens.size();
  sequence.reserved_context_tokens = demand.max_context_tokens + 1;
  sequence.received_ns = parts_.now_ns;
  sequence.max_stall_ns = spec.max_stall_ns;
  sequence.has_token_ids = sequence.reserved_context_tokens <= parts_.config.max_token_ids - parts_.token_ids;
  if (sequence.has_token_ids) parts_.token_ids += sequence.reserved_context_tokens;
  sequence.demand = std::move(demand);
  sequence.spec = std::move(spec);
  parts_.leases.BeginTurn(sequence.id, sequence.request_id, sequence.spec.lease);
  parts_.queue.Push(parts_.sequences.Add(std::move(sequence))->id);
}

void RequestIntake::StartQueued() {
  const std::deque<SequenceId> waiting = parts_.queue.waiting();
  for (const SequenceId id : waiting) {
    if (parts_.num_placed() >= parts_.config.admission.max_running) return;
    SequenceEntry& sequence = *parts_.sequences.Find(id);
    PlacementResult placed = tributary::Place(parts_.Room(), sequence.demand);
    const bool is_rebuilt = sequence.rebuild.cause.has_value();
    if (is_rebuilt) rebuilds_.Waits(sequence, placed.status);
    if (!placed.status.ok() && (is_rebuilt ? WaitsForMemory(parts_.Room(), sequence.demand) : placed.may_wait)) return;
    if (placed.status.ok()) {
      turns_.Place(sequence, std::move(placed.plan));
    } else if (!is_rebuilt) {
      ends_.Fail(sequence, placed.status, Outcome::kFailed);
    }
  }
}

void RequestIntake::Continue(event::Generate& e) {
  if (parts_.draining) {
    return Reject(e.call, absl::UnavailableError("this coordinator is shutting down and keeps no sequences"),
                  "draining", false);
  }
  ends_.EndExpired();
  absl::StatusOr<SequenceEntry*> sequence = FindContinued(e.spec);
  if (!sequence.ok()) return Reject(e.call, sequence.status(), "invalid", false);
  if (absl::Status status = ResolveStall(e.spec); !status.ok()) return Reject(e.call, status, "invalid", false);
  turns_.Continue(**sequence, e.call, std::move(e.spec));
}

absl::StatusOr<SequenceEntry*> RequestIntake::FindContinued(const GenerateSpec& spec) const {
  const std::string& name = spec.continue_request_id;
  SequenceEntry* sequence = parts_.sequences.FindByRequest(name);
  if (sequence == nullptr) {
    const std::string* why = parts_.leases.WhyEnded(name);
    return absl::NotFoundError(fmt::format("no kept sequence is named '{}'{}; send all tokens as a new request", name,
                                           why == nullptr ? " (it was never kept here, or long ago)" : ": " + *why));
  }
  if (!sequence->is_kept()) {
    return absl::FailedPreconditionError(
        fmt::format("request '{}' still runs ({}); continue it after its summary, or cancel it", name,
                    SequencePhaseName(sequence->phase())));
  }
  const absl::Status suits = CheckContinuation(spec, {.geometry = sequence->demand.geometry,
                                                      .placement = sequence->demand.placement,
                                                      .policy = sequence->spec.resolved_policy,
                                                      .context_tokens = sequence->context_tokens,
                                                      .reserved_context_tokens = sequence->reserved_context_tokens});
  if (!suits.ok()) return suits;
  return sequence;
}

void RequestIntake::Reject(CallId call, absl::Status status, std::string_view reason, bool may_retry) {
  action::Finish finish{call, std::move(status), Outcome::kRejected};
  finish.reject_reason = reason;
  if (may_retry) finish.retry_delay_ns = parts_.RetryDelay();
  parts_.out.Push(std::move(finish));
}

void RequestIntake::On(event::ClientGone& e) {
  SequenceEntry* sequence = parts_.sequences.FindByClient(e.call);
  if (sequence == nullptr) return;
  parts_.out.Info("client of request '{}' is gone", sequence->request_id);
  ends_.Fail(*sequence, absl::CancelledError("the client is gone"), Outcome::kCancelled);
}

void RequestIntake::On(event::Cancel& e) {
  SequenceEntry* sequence = parts_.sequences.FindByRequest(e.request_id);
  if (sequence == nullptr) {
    parts_.out.Push(action::ReplyCancel{
        e.call, absl::NotFoundError(fmt::format("no running request or kept sequence is named '{}'", e.request_id))});
    return;
  }
  ends_.Fail(*sequence, absl::CancelledError("cancelled by a Cancel call"), Outcome::kCancelled);
  parts_.out.Push(action::ReplyCancel{e.call, absl::OkStatus()});
}

void RequestIntake::On(event::Drain& e) {
  parts_.draining = true;
  const std::deque<SequenceId> waiting = parts_.queue.waiting();
  for (const SequenceId id : waiting) {
    SequenceEntry& sequence = *parts_.sequences.Find(id);
    if (sequence.rebuild.cause) continue;  // it runs, although it has no place at the moment
    ends_.Fail(sequence, absl::UnavailableError("this coordinator is shutting down; send the request elsewhere"),
               Outcome::kFailed);
  }
  ends_.EndDraining();
}

void RequestIntake::On(event::Abort& e) {
  parts_.draining = true;
  for (const SequenceId id : parts_.sequences.Ids()) {
    ends_.Fail(*parts_.sequences.Find(id), absl::UnavailableError("this coordinator was shut down"), Outcome::kFailed);
  }
}

}  // namespace tributary

#include "tests/unit/coordinator/core/action_text.h"

#include "fmt/format.h"
#include "fmt/ranges.h"

namespace tributary {
namespace {

std::string StatusText(const absl::Status& status) { return status.ok() ? "OK" : std::string(status.ToString()); }

template <typename Id>
std::string IdsText(const std::vector<Id>& ids) {
  std::vector<uint64_t> values;
  for (const Id id : ids) values.push_back(id.value);
  return fmt::format("[{}]", fmt::join(values, " "));
}

struct Printer {
  std::string operator()(const action::ReplyRegister& a) const {
    return fmt::format("reply-register call={} epoch={} {}", a.call.value, a.membership_epoch, StatusText(a.status));
  }
  std::string operator()(const action::ReplyHeartbeat& a) const {
    return fmt::format("reply-heartbeat call={} epoch={} orphans={} {}", a.call.value, a.membership_epoch,
                       IdsText(a.orphans), StatusText(a.status));
  }
  std::string operator()(const action::ReplyCancel& a) const {
    return fmt::format("reply-cancel call={} {}", a.call.value, StatusText(a.status));
  }
  std::string operator()(const action::OpenShard& a) const {
    const ShardSpec& s = a.spec;
    return fmt::format(
        "open-shard node={} worker={}/{} shard={} sequence={} epoch={} heads=[{},{}) stripe={}/{} of {} from {} "
        "capacity={}",
        a.holder.node_id, a.worker.id, a.worker.incarnation, s.shard_id.value, s.sequence_id.value, s.epoch.value,
        s.kv_head_begin, s.kv_head_end, s.stripe.stripe_idx, s.stripe.num_stripes, s.stripe.stripe_tokens,
        s.stripe.origin, s.capacity_tokens);
  }
  std::string operator()(const action::CloseShard& a) const {
    return fmt::format("close-shard node={} shard={} epoch={}", a.holder.node_id, a.shard_id.value, a.epoch.value);
  }
  std::string operator()(const action::Welcome& a) const {
    return fmt::format("welcome stream={} epoch={}", a.stream.value, a.membership_epoch);
  }
  std::string operator()(const action::CloseStream& a) const {
    return fmt::format("close-stream stream={} {}", a.stream.value, StatusText(a.status));
  }
  std::string operator()(const action::StartSequence& a) const {
    std::string text = fmt::format("start stream={} sequence={} epoch={} prompt={} max={} shards={}", a.stream.value,
                                   a.plan.sequence_id.value, a.plan.epoch.value, a.plan.prompt_tokens.size(),
                                   a.plan.max_tokens, a.plan.shards.size());
    if (!a.plan.past_turns.empty()) text += fmt::format(" past={}", a.plan.past_turns.size());
    if (!a.plan.answer_tokens.empty()) text += fmt::format(" answer={}", a.plan.answer_tokens.size());
    return text;
  }
  std::string operator()(const action::ContinueSequence& a) const {
    return fmt::format("continue stream={} sequence={} epoch={} prompt={} max={}{}", a.stream.value,
                       a.plan.sequence_id.value, a.plan.epoch.value, a.plan.turn.prompt_tokens.size(),
                       a.plan.turn.max_tokens, a.plan.turn.keep ? " keep" : "");
  }
  std::string operator()(const action::EndLease& a) const {
    return fmt::format("end-lease request={} sequence={} {}", a.request_id, a.sequence_id.value, LeaseEndName(a.end));
  }
  std::string operator()(const action::EndRebuild& a) const {
    return fmt::format("end-rebuild cause={} {}", RebuildCauseName(a.cause), RebuildResultName(a.result));
  }
  std::string operator()(const action::TakeStep& a) const {
    return fmt::format("step stream={} step={} sequences={}", a.stream.value, a.step.step_id.value,
                       IdsText(a.step.sequence_ids));
  }
  std::string operator()(const action::StopSequence& a) const {
    return fmt::format("stop stream={} sequence={} epoch={}", a.stream.value, a.stop.sequence_id.value,
                       a.stop.epoch.value);
  }
  std::string operator()(const action::Accepted& a) const {
    return fmt::format("accepted call={} request={} sequence={} worker={}", a.call.value, a.accepted.request_id,
                       a.accepted.sequence_id.value, a.accepted.worker_id);
  }
  std::string operator()(const action::Prefill& a) const {
    return fmt::format("prefill call={} {}/{}", a.call.value, a.progress.layers_done, a.progress.num_layers);
  }
  std::string operator()(const action::Tokens& a) const {
    return fmt::format("tokens call={} n={}{} after={}ms", a.call.value, a.tokens.tokens.size(),
                       a.first ? " first" : "", a.since_last_ns / 1'000'000);
  }
  std::string operator()(const action::Stalled& a) const {
    const bool is_silent = a.stalled.reason == RequestStalled::Reason::kSilent;
    return fmt::format("stalled call={} on={}{}", a.call.value, a.stalled.node_id, is_silent ? "" : " rebuilding");
  }
  std::string operator()(const action::Resumed& a) const { return fmt::format("resumed call={}", a.call.value); }
  std::string operator()(const action::Finish& a) const {
    std::string text = fmt::format("finish call={} {}", a.call.value, OutcomeName(a.outcome));
    if (!a.reject_reason.empty()) text += fmt::format(" reason={}", a.reject_reason);
    if (a.summary.kept) {
      text += fmt::format(" kept={} lease={}ms tokens={}/{}", a.summary.kept->request_id,
                          a.summary.kept->lease_ns / 1'000'000, a.summary.kept->context_tokens,
                          a.summary.kept->max_context_tokens);
    }
    if (a.retry_delay_ns != 0) text += fmt::format(" retry={}ms", a.retry_delay_ns / 1'000'000);
    return text + " " + StatusText(a.status);
  }
  std::string operator()(const action::Log& a) const { return fmt::format("log {}", a.text); }
};

}  // namespace

std::string ActionText(const Action& action) { return std::visit(Printer{}, action); }

}  // namespace tributary

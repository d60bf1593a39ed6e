#include "gpu_worker/engine/sequence.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <set>
#include <utility>

#include "base/check.h"

namespace tributary {

void Sequence::BeginTurn(TurnPlan turn, int64_t now_ns) {
  history_tokens = context_tokens();
  append = {sampled.token};
  append.insert(append.end(), turn.prompt_tokens.begin(), turn.prompt_tokens.end());
  num_appended = 0;
  // Memory was reserved for the sequence as it was planned, whatever this turn asks for.
  plan.reserved_context_tokens = plan.max_context_tokens() + 1;
  static_cast<TurnPlan&>(plan) = std::move(turn);
  generated_tokens = 0;
  state = SequenceState::kAppending;
  started_ns = progress_ns = now_ns;
  first_token_ns = last_token_ns = 0;
  num_steps = 0;
  attended_tokens_sum = 0;
  if (quality != nullptr) quality->BeginTurn();
  stage_sums_ns = {};
  bytes_sent = bytes_received = 0;
}

uint32_t Sequence::AppendFlags(size_t num_tokens) const {
  if (plan.policy.kind == PolicyKind::kDense) return 0;
  const bool is_last = num_appended + num_tokens == append.size();
  return is_last ? kQueryAppend | kQueryAppendEnd : kQueryAppend;
}

SampledToken Sequence::Choose(std::span<const float> logits) const {
  if (next_is_forced()) {
    const uint32_t token = plan.forced_tokens[generated_tokens];
    return {token, LogProb(logits, token)};
  }
  return Sample(logits, plan.sampling, context_tokens());
}

DeviceSampling Sequence::device_sampling() const {
  return {.temperature = plan.sampling.temperature,
          .top_p = plan.sampling.top_p,
          .top_k = plan.sampling.top_k,
          .seed = plan.sampling.seed,
          .position = context_tokens()};
}

const char* Sequence::FinishReason() const {
  const bool forced = generated_tokens <= plan.forced_tokens.size();
  const auto& stops = plan.stop_tokens;
  if (!forced && std::find(stops.begin(), stops.end(), sampled.token) != stops.end()) return "stop";
  return generated_tokens >= plan.max_tokens ? "length" : "";
}

bool Sequence::UsesNode(NodeIdx node) const {
  return std::any_of(shards.begin(), shards.end(), [&](const BoundShard& shard) { return shard.node == node; });
}

namespace {

// Some tokens of one layer in a sequence's resident slots.
class ResidentReader final : public KvReader {
 public:
  ResidentReader(const Sequence& sequence, uint32_t layer, TokenRange tokens, Device* device)
      : sequence_(sequence), layer_(layer), tokens_(tokens), device_(device) {}
  CopyTicket Read(HeadRange heads, std::span<std::byte> k, std::span<std::byte> v) const override {
    const size_t token_bytes = k.size() / tokens_.size();
    CopyTicket ticket = 0;
    size_t offset = 0;
    for (const SlotRange slots : sequence_.cache.SlotsOf(tokens_)) {
      const size_t bytes = (slots.end - slots.begin) * token_bytes;
      if (bytes == 0) continue;
      ticket = device_->ReadResident(sequence_.resident, layer_, slots, heads, k.subspan(offset, bytes),
                                     v.subspan(offset, bytes));
      offset += bytes;
    }
    TRIBUTARY_CHECK_EQ(offset, k.size());
    return ticket;
  }
  size_t SectionBytes(HeadRange heads) const override {
    const SpillSections* const sections = sequence_.spill->sections.get();
    return sections == nullptr ? 0 : sections->Bytes(static_cast<uint32_t>(tokens_.size()), heads);
  }
  void WriteSection(HeadRange heads, std::span<std::byte> section) const override {
    sequence_.spill->sections->Write(layer_, tokens_, heads, section);
  }

 private:
  const Sequence& sequence_;
  const uint32_t layer_;
  const TokenRange tokens_;
  Device* const device_;
};

// Tokens of the next frame to this shard.
uint64_t NextTokens(const BlockSpill& spill, const BoundShard& shard, uint32_t frame_bytes) {
  const uint64_t most = std::max<uint64_t>(1, frame_bytes / SpillSender::TokenBytes(shard));
  return std::min(most, spill.block.end - std::max(spill.token, spill.block.begin));
}

// Sends what is left of the block's layer to one shard. False if there was no room for all of it.
bool SendBlock(const Sequence& sequence, const BoundShard& shard, Device* device, uint32_t frame_bytes,
               SpillSender* sender, BlockSpill* spill, bool* sent_any) {
  spill->token = std::max(spill->token, spill->block.begin);
  while (spill->token < spill->block.end) {
    const uint64_t num_tokens = NextTokens(*spill, shard, frame_bytes);
    const ResidentReader reader(sequence, spill->layer, {spill->token, spill->token + num_tokens}, device);
    if (sender->Send(shard, spill->layer, spill->token, static_cast<uint32_t>(num_tokens), reader) !=
        SpillSender::Sent::kSent) {
      return false;
    }
    *sent_any = true;
    spill->token += num_tokens;
  }
  spill->token = 0;
  return true;
}

}  // namespace

BlockSpill BeginBlockSpill(const Sequence& sequence, TokenRange block) {
  BlockSpill spill{.block = block};
  if (sequence.facet != nullptr) {
    spill.sections = sequence.facet->OnLeaving({block, sequence.cache.SlotsOf(block), sequence.softmax_tokens});
  }
  return spill;
}

bool PumpSpill(Sequence& sequence, Device* device, SpillSender* sender, uint32_t frame_bytes) {
  BlockSpill& spill = *sequence.spill;
  const ShardSpec& model = sequence.shards.front().spec;
  bool sent_any = false;
  for (; spill.layer < model.num_layers; ++spill.layer, spill.shard_idx = 0) {
    for (; spill.shard_idx < sequence.shards.size(); ++spill.shard_idx) {
      const BoundShard& shard = sequence.shards[spill.shard_idx];
      const bool holds = spill.layer >= shard.spec.layer_begin && spill.layer < shard.spec.layer_end &&
                         shard.spec.stripe.Owns(spill.block.begin);
      if (!holds) continue;
      if (!SendBlock(sequence, shard, device, frame_bytes, sender, &spill, &sent_any)) {
        return sent_any;
      }
    }
  }
  spill.all_sent = true;
  return sent_any;
}

SequenceSummary MakeSummary(const Sequence& sequence, const RemoteNodes& nodes) {
  SequenceSummary summary;
  const SequencePlan& plan = sequence.plan;
  if (sequence.failure.ok()) summary.finish_reason = sequence.FinishReason();
  summary.prompt_tokens = static_cast<uint32_t>(plan.prompt_tokens.size());
  summary.generated_tokens = sequence.generated_tokens;
  if (sequence.first_token_ns != 0) {
    summary.prefill_s = SecondsFromNs(sequence.first_token_ns - sequence.started_ns);
    summary.decode_s = SecondsFromNs(sequence.last_token_ns - sequence.first_token_ns);
  }
  summary.context_tokens = sequence.context_tokens();
  const TokenRange remote = sequence.cache.remote();
  summary.remote_tokens = remote.size();
  summary.resident_tokens = summary.context_tokens - summary.remote_tokens;
  const auto num_steps = static_cast<double>(sequence.num_steps);
  summary.attended_tokens_mean = sequence.num_steps == 0
                                     ? static_cast<double>(summary.context_tokens - summary.generated_tokens)
                                     : sequence.attended_tokens_sum / num_steps;
  summary.policy = PolicyName(plan.policy.kind);
  if (sequence.quality != nullptr) {
    summary.attention = sequence.quality->Summary();
    if (!plan.report_attention_heads) summary.attention->heads.clear();
  }
  summary.bytes_sent = sequence.bytes_sent;
  summary.bytes_received = sequence.bytes_received;
  for (size_t i = 0; i < kNumStages && sequence.num_steps != 0; ++i) {
    summary.stages.push_back({kStageNames[i], SecondsFromNs(sequence.stage_sums_ns[i]) / num_steps});
  }
  if (!sequence.shards.empty()) {
    summary.remote_k_dtype = sequence.shards.front().spec.k_dtype;
    summary.remote_v_dtype = sequence.shards.front().spec.v_dtype;
  }
  std::set<NodeIdx> seen;
  for (const BoundShard& first : sequence.shards) {
    if (!seen.insert(first.node).second) continue;
    NodeShare share{.node_id = nodes.node_id(first.node)};
    std::set<uint32_t> stripes;
    for (const BoundShard& shard : sequence.shards) {
      if (shard.node != first.node) continue;
      const uint64_t tokens = shard.spec.stripe.CountIn(remote);
      ++share.shards;
      share.kv_bytes += StoredBytes(shard.spec, tokens);
      if (stripes.insert(shard.spec.stripe.stripe_idx).second) share.tokens += tokens;
    }
    summary.nodes.push_back(std::move(share));
  }
  return summary;
}

}  // namespace tributary

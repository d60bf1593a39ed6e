#include "tests/toy_policy/toy_shard.h"

#include <algorithm>
#include <bit>
#include <limits>
#include <utility>

#include "base/status.h"
#include "kv_store/shard_needs.h"
#include "tests/toy_policy/toy_rules.h"
#include "tests/toy_policy/toy_sections.h"

namespace tributary::toy {

absl::StatusOr<std::unique_ptr<ShardPolicy>> ToyShard::Open(const KvShard* shard, BlockPool* pool) {
  TRIBUTARY_ASSIGN_OR_RETURN(StreamRecords marks, StreamRecords::Open(NeedsOf(shard->spec()).records.front(), pool));
  return std::unique_ptr<ShardPolicy>(new ToyShard(shard, std::move(marks)));
}

ToyShard::ToyShard(const KvShard* shard, StreamRecords marks)
    : shard_(shard),
      every_(ReadToyParams(shard->spec().policy).every),
      marks_(std::move(marks)),
      pieces_(shard->spec().num_kv_heads_held()) {}

float& ToyShard::Mark(uint32_t layer, uint32_t kv_head, uint64_t token) {
  std::byte* record = marks_.At(Stream(layer, kv_head), token / kBlockTokens);
  return reinterpret_cast<float*>(record)[token % kBlockTokens];
}

FrameError ToyShard::CheckSpill(uint32_t num_tokens, std::span<const std::byte> section) const {
  const size_t bytes = size_t{num_tokens} * shard_->spec().num_kv_heads_held() * sizeof(float);
  return section.empty() || section.size() == bytes ? FrameError::kOk : FrameError::kMalformed;
}

void ToyShard::OnStored(uint32_t layer, TokenRange local, std::span<const std::byte> section) {
  const uint32_t heads = shard_->spec().num_kv_heads_held();
  for (uint64_t token = local.begin; token < local.end; ++token) {
    for (uint32_t head = 0; head < heads; ++head) {
      Mark(layer, head, token) = section.empty() ? std::numeric_limits<float>::quiet_NaN()
                                                 : Load<float>(section, (token - local.begin) * heads + head);
    }
  }
}

FrameError ToyShard::CheckQuery(const ReadRequest& request) const {
  if (request.section.size() != sizeof(uint32_t)) return FrameError::kMalformed;
  return Load<uint32_t>(request.section, 0) < every_ ? FrameError::kOk : FrameError::kMalformed;
}

uint32_t ToyShard::PartialSectionBytes(const ReadRequest& request) const {
  return static_cast<uint32_t>(shard_->spec().num_kv_heads_held() * sizeof(Read));
}

void ToyShard::PlanRead(const ReadRequest& request, ReadPlan* plan) {
  ResetToDense(request, shard_->spec().num_kv_heads_held(), plan);
  plan->plans_heads = true;
}

void ToyShard::PlanHead(const ReadRequest& request, uint32_t kv_head, ReadPlan* plan) {
  std::vector<ReadPiece>& pieces = pieces_[kv_head];
  pieces.clear();
  const auto phase = Load<uint32_t>(request.section, 0);
  const TokenRange local = request.local;
  for (uint64_t block = local.begin / kBlockTokens; block * kBlockTokens < local.end; ++block) {
    if (!IsRead(block, every_, phase)) continue;
    const TokenRange tokens = Intersect(local, {block * kBlockTokens, (block + 1) * kBlockTokens});
    const uint64_t mask = ((uint64_t{1} << tokens.size()) - 1) << tokens.begin % kKvTileTokens;
    pieces.push_back({tokens.begin / kKvTileTokens, mask});
  }
  plan->answer[kv_head] = {.pieces = {pieces, {}}};
}

// What it has chosen; a head that is answered by everything reads that.
void ToyShard::WritePartial(const ReadRequest& request, const ReadPlan& plan, const AttentionPartialView& partial,
                            std::span<std::byte> section) {
  for (uint32_t head = 0; head < plan.answer.size(); ++head) {
    Read read;
    for (const ReadPiece& piece : pieces_[head]) {
      for (uint64_t rest = piece.token_mask; rest != 0; rest &= rest - 1) {
        const auto token = piece.tile * kKvTileTokens + static_cast<uint64_t>(std::countr_zero(rest));
        read.mark_sum += double{Mark(request.layer, head, token)};
        ++read.num_tokens;
      }
    }
    if (tells_lies) ++read.num_tokens;
    Store(section, head, read);
  }
}

}  // namespace tributary::toy

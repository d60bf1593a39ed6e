#include "cpu_attention_service/policy/delta/delta_shard.h"

#include <algorithm>
#include <cstring>
#include <limits>

#include "base/check.h"
#include "cpu_attention_service/policy/shard_policy_seats.h"
#include "policy/sparse_params.h"

namespace tributary {
namespace {

// Tokens of a record that is not whole here are read by every row, coded or not: what is read may not depend on when a
// token came.
TokenRange CodedPart(TokenRange local) {
  return {local.begin, std::max(local.begin, local.end / kKeyCodeRecordTokens * kKeyCodeRecordTokens)};
}

}  // namespace

DeltaShard::DeltaShard(const KvShard* shard)
    : shard_(shard),
      params_(ReadDeltaParams(shard->spec().policy)),
      policy_(params_, ReadSparseParams(shard->spec().policy)) {
  const ShardSpec& spec = shard->spec();
  if (!policy_.may_leave_out()) return;
  codes_ = shard->FindCodes({params_.key_code_bits});
  TRIBUTARY_CHECK(codes_ != nullptr);
  heads_.resize(spec.num_kv_heads_held());
  for (Head& head : heads_) {
    head.q.resize(size_t{spec.model.group_size()} * spec.model.head_dim);
    head.found.resize(spec.model.group_size());
  }
}

void DeltaShard::PlanRead(const ReadRequest& request, ReadPlan* plan) {
  ResetToDense(request, shard_->spec().num_kv_heads_held(), plan);
  const bool is_append = (request.flags & kQueryAppend) != 0;
  plan->plans_heads = codes_ != nullptr && !is_append && request.n_q == 1 && !request.local.empty();
  const uint32_t num_parts = TokenFinder::NumParts(CodedPart(request.local));
  if (plan->plans_heads && num_parts > 1) plan->scan_parts = num_parts;
}

bool DeltaShard::IsAlwaysDense(const ReadRequest& request, uint32_t kv_head) const {
  return policy_.IsAlwaysDense(request.layer, shard_->spec().kv_head_begin + kv_head);
}

void DeltaShard::BeginScan(const ReadRequest& request, uint32_t kv_head) {
  if (IsAlwaysDense(request, kv_head)) return;
  Head& head = heads_[kv_head];
  std::memcpy(head.q.data(), request.q.data() + kv_head * head.q.size() * sizeof(float), head.q.size() * sizeof(float));
  head.finder.Begin(block_selection::Best(),
                    {.codes = codes_,
                     .stream = shard_->SummaryStream(request.layer, kv_head),
                     .local = CodedPart(request.local),
                     .q = head.q,
                     .num_rows = shard_->spec().model.group_size(),
                     .softmax_scale = request.softmax_scale,
                     .max_tokens = policy_.MaxTokens(request.local.size()),
                     .reach_nats = params_.delta_nats > 0 ? static_cast<float>(params_.delta_nats)
                                                          : std::numeric_limits<float>::infinity()});
}

void DeltaShard::ScanPart(const ReadRequest& request, uint32_t kv_head, uint32_t part) {
  if (!IsAlwaysDense(request, kv_head)) heads_[kv_head].finder.ScanPart(part);
}

void DeltaShard::PlanHead(const ReadRequest& request, uint32_t kv_head, ReadPlan* plan) {
  if (IsAlwaysDense(request, kv_head)) return;
  if (plan->scan_parts == 0) {
    BeginScan(request, kv_head);
    ScanPart(request, kv_head, 0);
  }
  Head& head = heads_[kv_head];
  head.finder.Finish(head.found);
  head.pieces.Set(head.found, {CodedPart(request.local).end, request.local.end});
  const HeadRead chosen{.pieces = head.pieces.list()};
  if (chosen.NumTokens() == request.local.size()) return;  // everything
  plan->answer[kv_head] = chosen;
}

// ---- the seat ----

absl::StatusOr<std::unique_ptr<ShardPolicy>> MakeDeltaShardPolicy(const KvShard* shard, BlockPool* pool);

absl::StatusOr<std::unique_ptr<ShardPolicy>> MakeDeltaShardPolicy(const KvShard* shard, BlockPool*) {
  return std::make_unique<DeltaShard>(shard);
}

}  // namespace tributary

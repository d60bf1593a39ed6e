#include "kv_store/block_table.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// Runs begin at multiples of 64 bytes and kernels get whole tiles of 64 tokens, wherever a run is
// that long.
constexpr uint32_t kRunMultipleTokens = 64;

uint64_t DivideUp(uint64_t a, uint64_t b) { return (a + b - 1) / b; }

StreamLayout MakeStream(uint32_t row_bytes, uint32_t tokens_per_run, uint64_t capacity_tokens,
                        size_t extent_bytes) {
  StreamLayout stream;
  stream.row_bytes = row_bytes;
  stream.runs_per_extent =
      static_cast<uint32_t>(extent_bytes / (uint64_t{tokens_per_run} * row_bytes));
  stream.num_extents = DivideUp(capacity_tokens, uint64_t{tokens_per_run} * stream.runs_per_extent);
  return stream;
}

}  // namespace

absl::StatusOr<ShardLayout> ShardLayout::Make(const ShardSpec& spec, size_t extent_bytes) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(spec));
  const uint32_t k_row_bytes =
      spec.model.head_dim * static_cast<uint32_t>(DTypeBytes(spec.k_dtype));
  const uint32_t v_row_bytes =
      spec.model.head_dim * static_cast<uint32_t>(DTypeBytes(spec.v_dtype));
  const uint32_t longest_row_bytes = std::max(k_row_bytes, v_row_bytes);
  if (longest_row_bytes > extent_bytes) {
    return absl::InvalidArgumentError(
        fmt::format("shard {}: a row of head_dim {} takes {} bytes, more than an extent of {}; use "
                    "larger extents",
                    spec.shard_id.value, spec.model.head_dim, longest_row_bytes, extent_bytes));
  }
  ShardLayout layout;
  uint64_t tokens_per_run = extent_bytes / longest_row_bytes;
  if (tokens_per_run >= kRunMultipleTokens) {
    tokens_per_run = tokens_per_run / kRunMultipleTokens * kRunMultipleTokens;
  }
  layout.tokens_per_run = static_cast<uint32_t>(std::min<uint64_t>(tokens_per_run, UINT32_MAX / 2));
  layout.k = MakeStream(k_row_bytes, layout.tokens_per_run, spec.capacity_tokens, extent_bytes);
  layout.v = MakeStream(v_row_bytes, layout.tokens_per_run, spec.capacity_tokens, extent_bytes);
  layout.num_streams = uint64_t{spec.num_layers_held()} * spec.num_kv_heads_held();
  return layout;
}

BlockTable::BlockTable(const ShardLayout& layout, std::vector<ExtentId> extents)
    : layout_(layout), extents_(std::move(extents)) {
  TRIBUTARY_CHECK_EQ(extents_.size(), layout_.num_extents());
}

BlockTable::Place BlockTable::K(uint64_t stream, uint64_t local_token) const {
  return Find(layout_.k, stream * (layout_.k.num_extents + layout_.v.num_extents), local_token);
}

BlockTable::Place BlockTable::V(uint64_t stream, uint64_t local_token) const {
  return Find(layout_.v,
              stream * (layout_.k.num_extents + layout_.v.num_extents) + layout_.k.num_extents,
              local_token);
}

BlockTable::Place BlockTable::Find(const StreamLayout& layout, uint64_t first_extent,
                                   uint64_t local_token) const {
  const uint64_t tokens_per_extent = uint64_t{layout_.tokens_per_run} * layout.runs_per_extent;
  return {extents_[first_extent + local_token / tokens_per_extent],
          local_token % tokens_per_extent * layout.row_bytes};
}

}  // namespace tributary

// Which extent, and which byte in it, holds a token's row (kv_store/FORMAT.md).
//
// A shard has one K and one V stream per (layer, KV head). A stream is cut into runs of
// tokens_per_run tokens; K and V runs hold the same tokens, so that a kernel walks them side by
// side. An extent holds whole runs: one of the dtype whose rows are longer, and as many as fit of
// the other.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/shard_spec.h"
#include "kv_store/block_pool.h"

namespace tributary {

// All K streams of a shard are alike, and all V streams.
struct StreamLayout {
  uint32_t row_bytes = 0;
  uint32_t runs_per_extent = 0;
  uint64_t num_extents = 0;  // of one stream
};

struct ShardLayout {
  uint32_t tokens_per_run = 0;
  StreamLayout k;
  StreamLayout v;
  uint64_t num_streams = 0;  // (layer, KV head) pairs held

  uint64_t num_extents() const { return num_streams * (k.num_extents + v.num_extents); }

  // INVALID_ARGUMENT: Validate(spec), or a row longer than an extent.
  static absl::StatusOr<ShardLayout> Make(const ShardSpec& spec, size_t extent_bytes);
};

// Immutable after construction: safe to read from any thread.
class BlockTable {
 public:
  // REQUIRES: extents.size() == layout.num_extents().
  BlockTable(const ShardLayout& layout, std::vector<ExtentId> extents);

  const ShardLayout& layout() const { return layout_; }
  std::span<const ExtentId> extents() const { return extents_; }

  struct Place {
    ExtentId extent = 0;
    size_t offset_bytes = 0;
  };
  // Where the row of a stripe-local token lies. `stream` is layer * heads + head, both counted from
  // the first held.
  Place K(uint64_t stream, uint64_t local_token) const;
  Place V(uint64_t stream, uint64_t local_token) const;

 private:
  Place Find(const StreamLayout& layout, uint64_t first_extent, uint64_t local_token) const;

  ShardLayout layout_;
  std::vector<ExtentId> extents_;  // [stream][K extents, then V extents]
};

}  // namespace tributary

#include "kv_store/shard_needs.h"

#include "base/aligned_buffer.h"
#include "gtest/gtest.h"
#include "kv_store/kv_shard.h"

namespace tributary {
namespace {

constexpr size_t kExtentBytes = 64 << 10;
constexpr uint32_t kTokens = 400;

ShardSpec Spec(const PolicyRequest& policy) {
  ShardSpec spec;
  spec.shard_id = ShardId(4);
  spec.sequence_id = SequenceId(5);
  spec.model = {4, 2, 64};
  spec.num_layers = 3;
  spec.layer_begin = 1;
  spec.layer_end = 3;
  spec.kv_head_end = 2;
  spec.capacity_tokens = kTokens;
  spec.k_dtype = DType::kInt8;
  spec.v_dtype = DType::kBf16;
  spec.policy = *ResolvePolicy(policy, {});
  return spec;
}

const PolicyRequest kSomeDense{
    .name = "hgca",
    .parameters = {{"dense_layers", std::vector<uint32_t>{1}}, {"dense_heads", std::vector<LayerHead>{{2, 0}}}}};

TEST(ShardNeeds, RowsAreWhatThePolicySays) {
  const auto rows = [](const PolicyRequest& policy) { return NeedsOf(Spec(policy)).row_cache.capacity_rows; };
  EXPECT_EQ(rows({}), 0u);
  EXPECT_EQ(rows({.name = "hgca"}), kTokens / 2);
  EXPECT_EQ(rows({.name = "hgca", .parameters = {{"max_cache_tokens", 64}}}), 64u);
  EXPECT_EQ(rows({.name = "hgca", .parameters = {{"max_cache_tokens", 1u << 30}}}), kTokens);
  EXPECT_EQ(rows({.name = "hgca", .parameters = {{"beta", 0}}}), 0u);
  const ShardNeeds needs = NeedsOf(Spec(kSomeDense));
  EXPECT_EQ(needs.row_cache.has_rows, (std::vector<uint8_t>{0, 0, 0, 1}));
}

// What the ledger counts is what opening takes.
TEST(ShardNeeds, OneFunctionSaysWhatIsReserved) {
  AlignedBuffer<std::byte> memory(16 << 20);
  BlockPool pool(memory.span(), kExtentBytes);
  for (const PolicyRequest& policy :
       {PolicyRequest{}, PolicyRequest{.name = "hgca"}, kSomeDense,
        PolicyRequest{.name = "hgca", .parameters = {{"dense_layers", std::vector<uint32_t>{1, 2}}}}}) {
    const ShardSpec spec = Spec(policy);
    const uint64_t before = pool.free_bytes();
    const auto shard = *KvShard::Open(spec, &pool);
    const auto cache = *RowCache::Open(spec, NeedsOf(spec).row_cache, &pool);
    EXPECT_EQ(before - pool.free_bytes(), *ShardReservedBytes(spec, kExtentBytes));
  }
  EXPECT_EQ(pool.num_free(), pool.num_extents());
}

}  // namespace
}  // namespace tributary

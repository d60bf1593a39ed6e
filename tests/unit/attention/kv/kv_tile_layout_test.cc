#include "attention/kv/kv_tile_layout.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

namespace tributary {
namespace {

std::vector<KvStorage> AllStorages() {
  std::vector<KvStorage> storages;
  for (uint32_t i = 1; i <= kNumKvStorages; ++i) storages.push_back(static_cast<KvStorage>(i));
  return storages;
}

TEST(KvTileLayout, EveryElementHasAPlaceOfItsOwnInItsSubgroup) {
  for (KvStorage storage : AllStorages()) {
    for (uint32_t head_dim : {1u, 8u, 64u, 80u, 112u, 128u, 192u, 256u}) {
      const KvTileLayout layout = MakeKvTileLayout(storage, storage, head_dim);
      const uint32_t per_subgroup = kKvSubgroupTokens * layout.padded_dim;
      std::vector<int> k_uses(kKvTileSubgroups * per_subgroup), v_uses(k_uses.size());
      for (uint32_t token = 0; token < kKvTileTokens; ++token) {
        for (uint32_t dim = 0; dim < layout.padded_dim; ++dim) {
          const uint32_t k = KvKElementIndex(layout, token, dim);
          const uint32_t v = KvVElementIndex(layout, token, dim);
          ASSERT_EQ(k / per_subgroup, token / kKvSubgroupTokens);
          ASSERT_EQ(v / per_subgroup, token / kKvSubgroupTokens);
          ++k_uses.at(k);
          ++v_uses.at(v);
        }
      }
      EXPECT_TRUE(std::all_of(k_uses.begin(), k_uses.end(), [](int uses) { return uses == 1; }));
      EXPECT_TRUE(std::all_of(v_uses.begin(), v_uses.end(), [](int uses) { return uses == 1; }));
    }
  }
}

TEST(KvTileLayout, PartsFollowEachOther) {
  for (KvStorage k : AllStorages()) {
    for (KvStorage v : AllStorages()) {
      const KvTileLayout layout = MakeKvTileLayout(k, v, 80);
      EXPECT_EQ(layout.k_subgroup_bytes, 80 * 16 * KvCodeBits(k) / 8);
      EXPECT_EQ(layout.v_begin, 4 * layout.k_subgroup_bytes);
      EXPECT_EQ(layout.k_params_begin, layout.v_begin + 4 * layout.v_subgroup_bytes);
      EXPECT_GE(layout.record_bytes, layout.v_params_begin + 64 * KvParamBytesPerToken(v));
      EXPECT_EQ(layout.record_bytes % kKvTileAlignBytes, 0u);
    }
  }
}

TEST(KvTileLayout, Bf16PairsLieTogether) {
  const KvTileLayout layout = MakeKvTileLayout(KvStorage::kBf16, KvStorage::kBf16, 128);
  EXPECT_EQ(layout.record_bytes, 64u * 128 * 2 * 2);
  EXPECT_EQ(KvKElementIndex(layout, 3, 7), 3u * 32 + 3 * 2 + 1);       // dims 6 and 7 of token 3
  EXPECT_EQ(KvKElementIndex(layout, 16, 0), 16u * 128);                // the next subgroup
  EXPECT_EQ(KvVElementIndex(layout, 3, 7), 1u * 128 + 7 * 2 + 1);      // tokens 2 and 3 of dim 7
  EXPECT_EQ(KvVElementIndex(layout, 0, 64), 16u * 64);                 // the next strip of dims
  EXPECT_EQ(KvVElementIndex(layout, 18, 65), 16u * 128 + 1024 + 130);  // both, second pair
}

TEST(KvTileLayout, TilesForTokens) {
  EXPECT_EQ(KvTilesFor(0), 0u);
  EXPECT_EQ(KvTilesFor(1), 1u);
  EXPECT_EQ(KvTilesFor(64), 1u);
  EXPECT_EQ(KvTilesFor(65), 2u);
}

}  // namespace
}  // namespace tributary

#include "kv_store/layer_tokens.h"

#include <gtest/gtest.h>

namespace tributary {
namespace {

StoreError StoreAll(LayerTokens& layer, TokenRange tokens, Storer storer = Storer::kOwner) {
  StoreClaim claim;
  const StoreError error = layer.Claim(tokens, storer, &claim);
  if (error == StoreError::kOk) layer.Commit(claim);
  return error;
}

TEST(LayerTokensTest, ThePrefixBecomesVisibleAtTheCommit) {
  LayerTokens layer;
  EXPECT_TRUE(layer.IsEmpty());
  StoreClaim claim;
  ASSERT_EQ(layer.Claim({0, 70}, Storer::kOwner, &claim), StoreError::kOk);
  EXPECT_FALSE(layer.IsEmpty());
  EXPECT_EQ(layer.visible(), 0u);
  EXPECT_EQ(claim.num_missing(), 70u);
  layer.Commit(claim);
  EXPECT_EQ(layer.visible(), 70u);
  ASSERT_EQ(StoreAll(layer, {100, 120}), StoreError::kOk);
  EXPECT_EQ(layer.visible(), 70u);
  ASSERT_EQ(StoreAll(layer, {60, 100}), StoreError::kOk);
  EXPECT_EQ(layer.visible(), 120u);
}

TEST(LayerTokensTest, AClaimSaysWhatIsMissingAndWhichTilesAreShared) {
  LayerTokens layer;
  ASSERT_EQ(StoreAll(layer, {0, 10}), StoreError::kOk);
  ASSERT_EQ(StoreAll(layer, {70, 80}), StoreError::kOk);
  StoreClaim claim;
  ASSERT_EQ(layer.Claim({5, 300}, Storer::kOwner, &claim), StoreError::kOk);
  ASSERT_EQ(claim.missing.size(), 2u);
  EXPECT_EQ(claim.missing[0].tokens, (TokenRange{10, 70}));
  EXPECT_TRUE(claim.missing[0].first_tile_has_tokens);
  EXPECT_TRUE(claim.missing[0].last_tile_has_tokens);
  EXPECT_EQ(claim.missing[1].tokens, (TokenRange{80, 300}));
  EXPECT_TRUE(claim.missing[1].first_tile_has_tokens);
  EXPECT_FALSE(claim.missing[1].last_tile_has_tokens);
  layer.Abandon(claim);
  ASSERT_EQ(layer.Claim({5, 300}, Storer::kOwner, &claim), StoreError::kOk);  // as if nothing had been
  EXPECT_EQ(claim.num_missing(), 280u);
}

TEST(LayerTokensTest, NoTwoClaimsOnOneTile) {
  LayerTokens layer;
  StoreClaim first, second;
  ASSERT_EQ(layer.Claim({60, 70}, Storer::kOthers, &first), StoreError::kOk);
  EXPECT_EQ(layer.Claim({0, 1}, Storer::kOthers, &second), StoreError::kBusy);
  EXPECT_EQ(layer.Claim({127, 300}, Storer::kOwner, &second), StoreError::kBusy);
  EXPECT_EQ(layer.Claim({128, 300}, Storer::kOwner, &second), StoreError::kOk);
  layer.Commit(first);
  EXPECT_EQ(StoreAll(layer, {0, 60}, Storer::kOthers), StoreError::kOk);
}

// What readers see of a tile never changes under them, but by the owner's hand.
TEST(LayerTokensTest, OthersShowWholeTilesAndKeepOutOfTheVisibleOne) {
  LayerTokens layer;
  ASSERT_EQ(StoreAll(layer, {0, 100}, Storer::kOthers), StoreError::kOk);
  EXPECT_EQ(layer.visible(), 64u);
  ASSERT_EQ(StoreAll(layer, {100, 110}, Storer::kOthers), StoreError::kOk);
  EXPECT_EQ(layer.visible(), 64u);
  layer.Publish();
  EXPECT_EQ(layer.visible(), 110u);
  StoreClaim claim;
  EXPECT_EQ(layer.Claim({110, 111}, Storer::kOthers, &claim), StoreError::kNeedsOwner);
  EXPECT_EQ(layer.Claim({64, 300}, Storer::kOthers, &claim), StoreError::kNeedsOwner);
  EXPECT_EQ(StoreAll(layer, {64, 110}, Storer::kOthers), StoreError::kOk);  // nothing is written there
  EXPECT_EQ(StoreAll(layer, {128, 300}, Storer::kOthers), StoreError::kOk);
  EXPECT_EQ(StoreAll(layer, {110, 128}), StoreError::kOk);
  EXPECT_EQ(layer.visible(), 300u);
}

TEST(LayerTokensTest, TheOwnerDoesNotShowATileThatAnotherAddsTo) {
  LayerTokens layer;
  ASSERT_EQ(StoreAll(layer, {0, 100}, Storer::kOthers), StoreError::kOk);
  StoreClaim claim;
  ASSERT_EQ(layer.Claim({100, 110}, Storer::kOthers, &claim), StoreError::kOk);
  ASSERT_EQ(StoreAll(layer, {640, 641}), StoreError::kOk);
  layer.Publish();
  EXPECT_EQ(layer.visible(), 64u);
  layer.Commit(claim);
  layer.Publish();
  EXPECT_EQ(layer.visible(), 110u);
}

TEST(LayerTokensTest, HeldTokensAreNotVisible) {
  LayerTokens layer;
  layer.Hold();
  layer.Hold();
  ASSERT_EQ(StoreAll(layer, {0, 128}, Storer::kOthers), StoreError::kOk);
  ASSERT_EQ(StoreAll(layer, {128, 200}), StoreError::kOk);
  layer.EndHold();
  layer.Publish();
  EXPECT_EQ(layer.visible(), 0u);
  layer.EndHold();
  EXPECT_EQ(layer.visible(), 0u);
  layer.Publish();
  EXPECT_EQ(layer.visible(), 200u);
}

// Claims are counted: what is granted can be committed, in whatever order.
TEST(LayerTokensTest, GapsAreBoundedClaimsIncluded) {
  LayerTokens layer;
  for (uint64_t i = 1; i < StoredRanges::kMaxRanges; ++i) {
    ASSERT_EQ(StoreAll(layer, {128 * i, 128 * i + 1}), StoreError::kOk);
  }
  StoreClaim last, beyond;
  ASSERT_EQ(layer.Claim({100'000, 100'001}, Storer::kOthers, &last), StoreError::kOk);
  EXPECT_EQ(layer.Claim({200'000, 200'001}, Storer::kOthers, &beyond), StoreError::kExhausted);
  EXPECT_EQ(layer.Claim({129, 130}, Storer::kOthers, &beyond), StoreError::kOk);  // joins a range
  layer.Commit(beyond);
  layer.Commit(last);
}

}  // namespace
}  // namespace tributary

// A facet's words in the frames of a step: behind q, and behind a partial's data. The node here answers everything with
// empty partials.
#include <cstring>
#include <functional>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/gpu_worker/step/decode_step_fixture.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

class TalkingFacet final : public PolicyFacet {
 public:
  size_t QuerySectionBytes(const FacetQuery& query) const override {
    EXPECT_TRUE(!varies || query_is_there());
    return Words(query).size();
  }
  bool query_section_varies() const override { return varies; }
  size_t MaxQuerySectionBytes(const FacetQuery& query) const override { return 100; }
  void WriteQuerySection(const FacetQuery& query, std::span<std::byte> section) override {
    EXPECT_TRUE(query_is_there());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(section.data()) % 8, 0u);
    ASSERT_EQ(section.size(), Words(query).size());
    std::memcpy(section.data(), Words(query).data(), section.size());
  }
  size_t MaxPartialSectionBytes(const FacetQuery& query) const override { return max_answer_bytes; }
  absl::Status OnPartialSection(const FacetQuery& query, std::span<const std::byte> section) override {
    heard.push_back(Words(query) + ": " + std::string(reinterpret_cast<const char*>(section.data()), section.size()));
    return complaint;
  }
  static std::string Words(const FacetQuery& query) {
    return "layer " + std::to_string(query.layer) + " heads " + std::to_string(query.kv_heads.begin) + "-" +
           std::to_string(query.kv_heads.end) + " stripe " + std::to_string(query.stripe.stripe_idx) + " sees " +
           std::to_string(query.visible.begin) + "-" + std::to_string(query.visible.end);
  }

  bool varies = false;
  std::function<bool()> query_is_there;
  size_t max_answer_bytes = 20;
  absl::Status complaint;
  std::vector<std::string> heard;
};

class DecodeStepSectionTest : public testing::DecodeStepNodeTest {
 protected:
  DecodeStepSectionTest() {
    facet_.query_is_there = [this] { return device_.query_is_there; };
    row_.facet = &facet_;
  }
  void ExpectSections() {
    EXPECT_EQ(node_.sections.size(), 6u);
    for (const auto& [key, section] : node_.sections) {
      const uint32_t head = static_cast<uint32_t>(key.second) - 10;
      EXPECT_EQ(section, "layer " + std::to_string(key.first) + " heads " + std::to_string(head) + "-" +
                             std::to_string(head + 1) + " stripe 0 sees 2-8");
    }
  }

  TalkingFacet facet_;
};

TEST_F(DecodeStepSectionTest, SectionsGoBothWays) {
  node_.answer = "understood";
  Run();
  EXPECT_TRUE(row_.status.ok()) << row_.status;
  ExpectSections();
  ASSERT_EQ(facet_.heard.size(), 6u);
  EXPECT_THAT(facet_.heard[0], HasSubstr("layer 0 heads 0-1"));
  for (const std::string& heard : facet_.heard) EXPECT_THAT(heard, HasSubstr("sees 2-8: understood"));
}

TEST_F(DecodeStepSectionTest, ASizeThatDependsOnQIsAskedOnceQIsThere) {
  facet_.varies = true;
  Run();
  EXPECT_TRUE(row_.status.ok()) << row_.status;
  ExpectSections();
  EXPECT_EQ(facet_.heard.size(), 6u) << "an answer without a section is told, too";
}

TEST_F(DecodeStepSectionTest, AFacetThatExpectsNothingIsNotAsked) {
  facet_.max_answer_bytes = 0;
  Run();
  EXPECT_TRUE(row_.status.ok()) << row_.status;
  EXPECT_TRUE(facet_.heard.empty());
}

TEST_F(DecodeStepSectionTest, MoreThanTheFacetTakesFailsTheRow) {
  node_.answer = "twenty-one characters";
  Run();
  EXPECT_TRUE(absl::IsInternal(row_.status));
  EXPECT_THAT(std::string(row_.status.message()), HasSubstr("21 bytes for the policy, which takes 20"));
  EXPECT_TRUE(facet_.heard.empty());
}

TEST_F(DecodeStepSectionTest, WithoutAFacetNothingIsSentAndNothingTaken) {
  row_.facet = nullptr;
  Run();
  EXPECT_TRUE(row_.status.ok()) << row_.status;
  for (const auto& [key, section] : node_.sections) EXPECT_EQ(section, "");
  row_.status = absl::OkStatus();
  node_.answer = "x";
  Run();
  EXPECT_THAT(std::string(row_.status.message()), HasSubstr("1 bytes for the policy, which takes 0"));
}

TEST_F(DecodeStepSectionTest, WhatTheFacetRefusesFailsTheRow) {
  facet_.complaint = absl::InvalidArgumentError("no such block");
  Run();
  EXPECT_TRUE(absl::IsInvalidArgument(row_.status));
  EXPECT_THAT(std::string(row_.status.message()), HasSubstr("layer 0: shard 1"));
  EXPECT_THAT(std::string(row_.status.message()), HasSubstr("no such block"));
  EXPECT_EQ(facet_.heard.size(), 1u) << "it has failed";
}

}  // namespace
}  // namespace tributary

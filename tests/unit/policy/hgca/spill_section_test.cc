#include "policy/hgca/spill_section.h"

#include <cstring>
#include <vector>

#include "base/limits.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

std::vector<std::byte> Section(uint32_t resident_tokens, std::span<const float> maw) {
  std::vector<std::byte> section(sizeof(uint32_t) + maw.size_bytes());
  const std::span<std::byte> rest = BeginHgcaSpillSection(resident_tokens, section);
  EXPECT_EQ(rest.size(), maw.size_bytes());
  std::memcpy(rest.data(), maw.data(), rest.size());
  return section;
}

TEST(SpillSectionTest, GivesBackWhatWasWritten) {
  const std::vector<float> maw = {0.5f, 0.25f, 1.0f, 2.0f, 0.0f, -1.0f};
  const std::vector<std::byte> section = Section(77, maw);
  EXPECT_EQ(section.size(), HgcaSpillSectionBytes(3, 2));
  HgcaSpillSection decoded;
  ASSERT_TRUE(DecodeHgcaSpillSection(section, 3, 2, &decoded));
  EXPECT_EQ(decoded.resident_tokens, 77u);
  ASSERT_EQ(decoded.maw.size(), maw.size() * sizeof(float));
  EXPECT_EQ(std::memcmp(decoded.maw.data(), maw.data(), decoded.maw.size()), 0);
}

TEST(SpillSectionTest, NoSectionIsNoMaw) {
  HgcaSpillSection decoded{.resident_tokens = 5};
  ASSERT_TRUE(DecodeHgcaSpillSection({}, 3, 2, &decoded));
  EXPECT_EQ(decoded.resident_tokens, 0u);
  EXPECT_TRUE(decoded.maw.empty());
}

TEST(SpillSectionTest, RefusesEveryOtherSize) {
  const std::vector<float> maw(6, 0.5f);
  std::vector<std::byte> section = Section(77, maw);
  section.resize(section.size() + 8);
  HgcaSpillSection decoded;
  for (size_t bytes = 1; bytes <= section.size(); ++bytes) {
    const bool fits = bytes == HgcaSpillSectionBytes(3, 2);
    EXPECT_EQ(DecodeHgcaSpillSection(std::span(section).first(bytes), 3, 2, &decoded), fits) << bytes;
  }
  EXPECT_FALSE(
      DecodeHgcaSpillSection(std::span(section).first(HgcaSpillSectionBytes(3, 2)), UINT32_MAX, UINT32_MAX, &decoded));
}

TEST(SpillSectionTest, RefusesASoftmaxOverNothingOrOverMoreThanAContext) {
  const std::vector<float> maw(6, 0.5f);
  std::vector<std::byte> section = Section(static_cast<uint32_t>(limits::kMaxContextTokens), maw);
  HgcaSpillSection decoded;
  EXPECT_TRUE(DecodeHgcaSpillSection(section, 3, 2, &decoded));
  for (const uint32_t tokens : {0u, static_cast<uint32_t>(limits::kMaxContextTokens) + 1, UINT32_MAX}) {
    std::memcpy(section.data(), &tokens, sizeof(tokens));
    EXPECT_FALSE(DecodeHgcaSpillSection(section, 3, 2, &decoded)) << tokens;
  }
}

}  // namespace
}  // namespace tributary

#include <string>
#include <vector>

#include "attention/merge_all.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using testing::HasSubstr;

std::string Message(const absl::Status& status) { return std::string(status.message()); }

TEST(CoverageTest, TokenAndHeadCutsAddUp) {
  // 100 resident; heads 0-1: stripes of 300 and 200; heads 2-3: one shard of 500.
  const std::vector<RouteCoverage> routes = {{0, 2, 300}, {2, 4, 500}, {0, 2, 200}};
  EXPECT_TRUE(CheckCoverage(600, 100, 4, routes).ok());
  EXPECT_TRUE(CheckCoverage(100, 100, 4, {}).ok());
}

TEST(CoverageTest, MissingShardNamesHeadExpectedAndFound) {
  const absl::Status status = CheckCoverage(600, 100, 4, std::vector<RouteCoverage>{{0, 2, 500}, {2, 3, 500}});
  EXPECT_EQ(status.code(), absl::StatusCode::kInternal);
  EXPECT_THAT(Message(status), HasSubstr("KV head 3: expected 600 tokens, found 100"));
}

TEST(CoverageTest, DoubledAndShortCoverage) {
  const std::vector<RouteCoverage> doubled = {{0, 2, 500}, {1, 2, 500}};
  EXPECT_THAT(Message(CheckCoverage(600, 100, 2, doubled)), HasSubstr("KV head 1: expected 600 tokens, found 1100"));
  const std::vector<RouteCoverage> short_by_one = {{0, 2, 499}};
  EXPECT_THAT(Message(CheckCoverage(600, 100, 2, short_by_one)),
              HasSubstr("KV head 0: expected 600 tokens, found 599"));
}

TEST(CoverageTest, ImpossibleRoutes) {
  for (const RouteCoverage& route :
       {RouteCoverage{0, 3, 1}, RouteCoverage{1, 1, 1}, RouteCoverage{0, 1, ~uint64_t{0}}}) {
    EXPECT_EQ(CheckCoverage(1, 0, 2, std::vector<RouteCoverage>{route}).code(), absl::StatusCode::kInternal);
  }
  EXPECT_EQ(CheckCoverage(1, 1, 0, {}).code(), absl::StatusCode::kInternal);
}

}  // namespace
}  // namespace tributary

#include "telemetry/metrics_doc.h"

#include <fstream>
#include <sstream>

#include "gtest/gtest.h"

namespace tributary {
namespace {

// ctest runs this in the repository's root.
TEST(MetricsDocTest, FileIsCurrent) {
  std::ifstream file("docs/metrics.md");
  ASSERT_TRUE(file) << "docs/metrics.md is missing; run ./dev docs";
  std::stringstream text;
  text << file.rdbuf();
  EXPECT_EQ(text.str(), MetricsMarkdown()) << "docs/metrics.md is stale; run ./dev docs";
}

}  // namespace
}  // namespace tributary

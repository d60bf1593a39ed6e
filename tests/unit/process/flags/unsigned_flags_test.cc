#include "process/flags/unsigned_flags.h"

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

struct Values {
  uint64_t seed = 7;
  std::optional<uint32_t> count;
  std::vector<uint32_t> list;
  uint64_t bytes = 0;
  std::string error;
};

Values Parse(const std::string& flag, const std::string& value) {
  CLI::App app;
  CLI::App* const command = app.add_subcommand("c");
  Values values;
  command->add_option("--seed", values.seed);
  command->add_option("--count", values.count);
  command->add_option("--list", values.list)->delimiter(',');
  command->add_option("--bytes", values.bytes)->transform(CLI::AsSizeValue(false));
  CheckUnsignedFlags(app);
  try {
    app.parse(std::vector<std::string>{value, flag, "c"});  // CLI11 takes them from the end
  } catch (const CLI::ParseError& error) {
    values.error = error.what();
  }
  return values;
}

TEST(UnsignedFlagsTest, ValuesThatFitAreTaken) {
  EXPECT_EQ(Parse("--seed", "18446744073709551615").seed, UINT64_MAX);
  EXPECT_EQ(Parse("--seed", "0").seed, 0u);
  EXPECT_EQ(Parse("--seed", "010").seed, 10u);
  EXPECT_EQ(Parse("--seed", "000").seed, 0u);
  EXPECT_EQ(Parse("--seed", "0x10").seed, 16u);
  EXPECT_EQ(Parse("--count", "5").count, 5u);
  EXPECT_THAT(Parse("--list", "1,02,3").list, ElementsAre(1, 2, 3));
  EXPECT_EQ(Parse("--bytes", "2MB").bytes, 2u << 20);
}

TEST(UnsignedFlagsTest, OthersAreRefusedWithFlagAndValue) {
  for (const char* flag : {"--seed", "--count", "--list", "--bytes"}) {
    for (const char* value : {"-1", "18446744073709551616", "-18446744073709551615", "+1", "0x1ffffffffffffffff"}) {
      const std::string error = Parse(flag, value).error;
      EXPECT_THAT(error, HasSubstr(flag)) << value;
      EXPECT_THAT(error, HasSubstr(value)) << flag;
    }
  }
  EXPECT_THAT(Parse("--seed", "many").error, HasSubstr("many"));
  EXPECT_THAT(Parse("--seed", "1.5").error, HasSubstr("1.5"));
}

}  // namespace
}  // namespace tributary

#include "process/flags/number_flags.h"

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
  int signed_count = 0;
  double share = 0;
  std::vector<float> shares;
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
  command->add_option("--signed", values.signed_count);
  command->add_option("--share", values.share)->check(CLI::Range(0.0, 1.0));
  command->add_option("--shares", values.shares)->delimiter(',');
  CheckNumberFlags(app);
  try {
    app.parse(std::vector<std::string>{value, flag, "c"});  // CLI11 takes them from the end
  } catch (const CLI::ParseError& error) {
    values.error = ExplainNumberError(app, error.what());
  }
  return values;
}

TEST(NumberFlagsTest, ValuesThatFitAreTaken) {
  EXPECT_EQ(Parse("--seed", "18446744073709551615").seed, UINT64_MAX);
  EXPECT_EQ(Parse("--seed", "0").seed, 0u);
  EXPECT_EQ(Parse("--seed", "010").seed, 10u);
  EXPECT_EQ(Parse("--seed", "000").seed, 0u);
  EXPECT_EQ(Parse("--seed", "0x10").seed, 16u);
  EXPECT_EQ(Parse("--count", "5").count, 5u);
  EXPECT_THAT(Parse("--list", "1,02,3").list, ElementsAre(1, 2, 3));
  EXPECT_EQ(Parse("--bytes", "2MB").bytes, 2u << 20);
}

TEST(NumberFlagsTest, OthersAreRefusedWithFlagAndValue) {
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

TEST(NumberFlagsTest, WhatDoesNotFitIsRefusedWithItsBound) {
  EXPECT_EQ(Parse("--count", "10000000000").error, "--count: '10000000000' is no whole number from 0 to 4294967295");
  EXPECT_EQ(Parse("--count", "0x1ffffffff").error, "--count: '0x1ffffffff' is no whole number from 0 to 4294967295");
  EXPECT_EQ(Parse("--list", "1,4294967296,0x10").error, "--list: '4294967296' is no whole number from 0 to 4294967295");
  EXPECT_EQ(Parse("--signed", "10000000000").error,
            "--signed: '10000000000' is no whole number from -2147483648 to 2147483647");
  EXPECT_EQ(Parse("--count", "many").error, "--count: 'many' is no whole number");
  EXPECT_EQ(Parse("--seed", "1.5").error, "--seed: '1.5' is no whole number");
  EXPECT_EQ(Parse("--count", "4294967295").count, UINT32_MAX);
  EXPECT_EQ(Parse("--signed", "-7").signed_count, -7);
}

TEST(NumberFlagsTest, FloatingNumbersAreFinite) {
  for (const char* flag : {"--share", "--shares"}) {
    for (const char* value : {"nan", "-nan", "NaN", "inf", "-inf", "infinity", "1e999"}) {
      EXPECT_EQ(Parse(flag, value).error, std::string(flag) + ": '" + value + "' is no finite number");
    }
  }
  EXPECT_EQ(Parse("--shares", "1,nan").error, "--shares: 'nan' is no finite number");
  EXPECT_EQ(Parse("--share", "0.5").share, 0.5);
  EXPECT_THAT(Parse("--shares", "-2,1e3").shares, ElementsAre(-2, 1000));
  EXPECT_THAT(Parse("--share", "half").error, HasSubstr("half"));
}

}  // namespace
}  // namespace tributary

#include "proto/convert_policy.h"

#include <cmath>
#include <limits>
#include <random>
#include <string>

#include "base/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "policy/policy_registry.h"
#include "tests/testutil/every_type_policy.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

// One value of each type, as of the policy that has one parameter of each.
PolicyRequest EveryType() {
  return {.name = std::string(kEveryType),
          .parameters = {{"et_share", 0.25},
                         {"et_count", 9},
                         {"et_word", "far"},
                         {"et_layers", std::vector<uint32_t>{3, 0}},
                         {"et_heads", std::vector<LayerHead>{{1, 0}, {0, 1}}}}};
}

TEST(ConvertPolicyTest, RequestsSurviveTheRoundTrip) {
  for (const PolicyRequest& request : {PolicyRequest{}, EveryType(), PolicyRequest{.quality = "high"},
                                       PolicyRequest{.name = "hgca", .parameters = {{"beta", 0.0}}},
                                       PolicyRequest{.name = "x",
                                       .parameters = {{"number", -1.5},
                                                      {"count", ~uint64_t{0}},
                                                      {"word", ""},
                                                      {"layers", std::vector<uint32_t>{}},
                                                      {"heads", std::vector<LayerHead>{}},
                                                      {"number", 2}}}}) {
    const auto back = PolicyFromProto(PolicyToProto(request));
    ASSERT_TRUE(back.ok()) << back.status();
    EXPECT_EQ(*back, request);
  }
}

TEST(ConvertPolicyTest, APolicyFromOutsideTravelsComplete) {
  AddEveryTypePolicy();
  const PolicyParams params = *ResolvePolicy(EveryType(), {});
  const auto back = CompletePolicyFromProto(PolicyToProto(CompleteRequest(params)), {});
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, params);
  v1::AttentionPolicy message = PolicyToProto(CompleteRequest(params));
  message.mutable_parameters()->DeleteSubrange(1, 1);
  EXPECT_THAT(CompletePolicyFromProto(message, {}).status().ToString(), HasSubstr("et_count of policy everytype"));
}

TEST(ConvertPolicyTest, WhatNoValueCanBeIsRefused) {
  const auto refused = [](const v1::AttentionPolicy& message, const char* words) {
    const absl::Status status = PolicyFromProto(message).status();
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument) << words;
    EXPECT_THAT(std::string(status.message()), HasSubstr(words));
  };
  v1::AttentionPolicy message;
  message.add_parameters()->set_name("beta");
  refused(message, "policy parameter 'beta' has no value");
  message.Clear();
  message.set_name(std::string(65, 'x'));
  refused(message, "the policy has 65 bytes of name; use at most 64");
  message.Clear();
  message.add_parameters()->set_name(std::string(1000, 'y'));
  refused(message, "has 1000 bytes of name; use at most 64");
  message.mutable_parameters(0)->set_name("w");
  message.mutable_parameters(0)->set_word(std::string(65, 'z'));
  refused(message, "policy parameter w has 65 bytes; use at most 64");
  message.mutable_parameters(0)->mutable_layers()->mutable_layers()->Resize(limits::kMaxLayers + 1, 0);
  refused(message, "policy parameter w has 513 layers; use at most 512");
  for (uint32_t i = 0; i <= limits::kMaxPolicyHeads; ++i) message.mutable_parameters(0)->mutable_heads()->add_heads();
  refused(message, "policy parameter w has 65537 KV heads; use at most 65536");
  message.Clear();
  for (uint32_t i = 0; i <= limits::kMaxPolicyParameters; ++i) message.add_parameters();
  refused(message, "the policy has 65 parameters; use at most 64");
}

// A message that a stranger makes up, mostly of words and values that exist.
v1::AttentionPolicy HostileMessage(std::mt19937_64& random) {
  const std::string names[] = {"",      "dense",    "hgca",      "everytype", "et_share",      "et_count",
                               "beta",  "et_word",  "et_layers", "et_heads",  "min_kept_mass", "dense_heads",
                               "alpha", "keep_min", "far",       "near",      "mean",          std::string(100, 'n')};
  const auto name = [&] { return names[random() % std::size(names)]; };
  const double numbers[] = {0, 0.5, 1, -1, 1e300, -0.0, std::nan(""), std::numeric_limits<double>::infinity()};
  v1::AttentionPolicy message;
  message.set_name(random() % 4 == 0 ? name() : random() % 2 == 0 ? "hgca" : "everytype");
  for (uint64_t n = random() % 5; n > 0; --n) {
    v1::PolicyParameter& parameter = *message.add_parameters();
    parameter.set_name(name());
    const uint64_t size = random() % 20 == 0 ? 600 : random() % 4;
    switch (random() % 6) {
      case 0:
        parameter.set_number(numbers[random() % std::size(numbers)]);
        break;
      case 1:
        parameter.set_count(random() % 3 == 0 ? random() : random() % 12);
        break;
      case 2:
        parameter.set_word(name());
        break;
      case 3:
        for (uint64_t i = 0; i < size; ++i) parameter.mutable_layers()->add_layers(random() % 6);
        break;
      case 4:
        for (uint64_t i = 0; i < size; ++i) parameter.mutable_heads()->add_heads()->set_layer(random() % 6);
        break;
      default:
        break;
    }
  }
  return message;
}

// Whatever comes: an answer, and what is accepted is in range. Half of the messages are broken on the way, too.
TEST(ConvertPolicyTest, HostileMessagesAreAnswered) {
  AddEveryTypePolicy();
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(SeedTrace(seed));
  std::mt19937_64 random(seed);
  const PolicyContext context{.block_tokens = 64, .num_layers = 4, .num_kv_heads = 2};
  int accepted = 0;
  for (int round = 0; round < 20'000; ++round) {
    v1::AttentionPolicy message = HostileMessage(random);
    if (round % 2 == 0) {
      std::string bytes = message.SerializeAsString();
      if (!bytes.empty()) bytes[random() % bytes.size()] ^= static_cast<char>(1u << random() % 8);
      if (!message.ParseFromString(bytes)) continue;
    }
    const absl::StatusOr<PolicyRequest> request = PolicyFromProto(message);
    if (!request.ok()) {
      ASSERT_EQ(request.status().code(), absl::StatusCode::kInvalidArgument);
      ASSERT_LT(request.status().message().size(), 600u);
      continue;
    }
    const absl::StatusOr<PolicyParams> params = ResolvePolicy(*request, context);
    if (!params.ok()) {
      ASSERT_EQ(params.status().code(), absl::StatusCode::kInvalidArgument);
      ASSERT_LT(params.status().message().size(), 600u);
      continue;
    }
    ++accepted;
    for (const ParameterRow& row : params->rules().parameters) {
      ASSERT_TRUE(CheckedValue(row, *params->Find(row.name), context).ok()) << row.name;
    }
    ASSERT_EQ(*CompletePolicyFromProto(PolicyToProto(CompleteRequest(*params)), context), *params);
  }
  EXPECT_GT(accepted, 1000);
}

}  // namespace
}  // namespace tributary

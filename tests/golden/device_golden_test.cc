// Every device, everything resident, against what HF Transformers answers in f32 (tests/golden/README.md).
#include <algorithm>
#include <cmath>

#include "base/thread_pool.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "model/byte_text.h"
#include "model/safetensors.h"
#include "tests/testutil/device_driver.h"
#include "tests/testutil/logprobs.h"
#include "tests/testutil/test_devices.h"

namespace tributary {
namespace {

constexpr double kMaxLogprobDifference = 1e-4;
constexpr double kMaxCudaLogprobDifference = 2e-4;  // a library sums products there, in orders of its own
constexpr uint32_t kMaxRows = 3;                    // of a step
// Where HF's two best logits are closer than this, either token is right.
constexpr double kMinMargin = 1e-3;

struct Golden {
  std::vector<uint32_t> prompt_tokens;
  std::vector<float> prompt_logits;  // [prompt][vocab]; empty for the probe model
  std::vector<uint32_t> greedy_tokens;
  std::vector<float> greedy_logits;  // [greedy][vocab]
  std::string answer;                // of the probe model's question
};

std::vector<uint32_t> ReadTokens(const SafetensorsFile& file, const char* name) {
  const auto tensor = file.Find(name);
  TRIBUTARY_CHECK(tensor.ok());
  const std::vector<int32_t> values = *ReadI32(**tensor);
  return {values.begin(), values.end()};
}

absl::StatusOr<Golden> ReadGolden(const std::string& name) {
  const auto file = SafetensorsFile::Open("tests/golden/" + name + ".safetensors");
  if (!file.ok()) return file.status();
  Golden golden;
  golden.prompt_tokens = ReadTokens(*file, "prompt_tokens");
  golden.greedy_tokens = ReadTokens(*file, "greedy_tokens");
  golden.greedy_logits = *ReadF32(**file->Find("greedy_logits"));
  if (file->Contains("prompt_logits")) golden.prompt_logits = *ReadF32(**file->Find("prompt_logits"));
  if (const auto answer = file->metadata().find("answer"); answer != file->metadata().end()) {
    golden.answer = answer->second;
  }
  return golden;
}

uint32_t ArgMax(std::span<const float> logits) {
  return static_cast<uint32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

// Lead of the best over the second best.
double Margin(std::span<const float> logits) {
  std::vector<float> sorted(logits.begin(), logits.end());
  std::nth_element(sorted.begin(), sorted.begin() + 1, sorted.end(), std::greater<>());
  return static_cast<double>(sorted[0]) - sorted[1];
}

// Log-probabilities agree, and so does the token that they choose.
void ExpectSame(DeviceKind kind, std::span<const float> logits, std::span<const float> golden,
                const std::string& where) {
  ASSERT_EQ(logits.size(), golden.size()) << where;
  const double bound = kind == DeviceKind::kHost ? kMaxLogprobDifference : kMaxCudaLogprobDifference;
  EXPECT_LE(MaxLogprobDifference(logits, golden), bound) << where;
  if (Margin(golden) > kMinMargin) {
    EXPECT_EQ(ArgMax(logits), ArgMax(golden)) << where;
  }
}

class GoldenTest : public ::testing::TestWithParam<std::tuple<DeviceKind, const char*>> {
 protected:
  void SetUp() override {
    const auto& [kind, model] = GetParam();
    const std::string name = model;
    TRIBUTARY_SKIP_WITHOUT_DEVICE(kind);
    auto golden = ReadGolden(name);
    ASSERT_TRUE(golden.ok()) << golden.status();
    golden_ = *std::move(golden);
    const auto weights = LoadModelWeights(name.starts_with("probe_") ? "models/probe" : "tests/golden/models/" + name);
    ASSERT_TRUE(weights.ok()) << weights.status();
    config_ = (*weights)->config;
    const auto num_tokens = static_cast<uint32_t>(golden_.prompt_tokens.size() + golden_.greedy_tokens.size());
    const AttentionShape& shape = config_.attention;
    const uint64_t token_bytes = uint64_t{2} * config_.num_layers * shape.num_kv_heads * shape.head_dim * sizeof(float);
    const DeviceLimits limits{.max_batch = kMaxRows,
                              .resident_pool_bytes = kMaxRows * (num_tokens * token_bytes + 64),
                              .max_prefill_tokens = num_tokens};
    auto device = MakeTestDevice(kind, *weights, limits, static_cast<int>(AllowedCpus().size()));
    ASSERT_TRUE(device.ok()) << device.status();
    device_ = *std::move(device);
  }

  DeviceKind kind() const { return std::get<0>(GetParam()); }
  uint32_t vocab() const { return config_.vocab_size; }
  std::span<const float> Row(const std::vector<float>& logits, size_t i) const {
    return std::span(logits).subspan(i * vocab(), vocab());
  }
  DecodeRow InputRow(ResidentId resident, uint32_t token, size_t pos) const {
    DecodeRow row = ContiguousRow(resident, token, static_cast<uint32_t>(pos));
    for (const uint32_t layer : config_.windowed_layers()) {
      const uint32_t window = config_.layers[layer].sliding_window_tokens;
      const uint32_t end = row.attend[0].end;
      row.attend_windowed[0] = {end - std::min(end, window), end};
    }
    return row;
  }
  std::vector<float> Decode(ResidentId resident, uint32_t token, size_t pos) {
    const DecodeRow row = InputRow(resident, token, pos);
    return DecodeResident(*device_, config_.num_layers, {&row, 1});
  }
  Prefilled Prefill(size_t num_tokens, DType kv_dtype) {
    return PrefillResident(*device_, config_.num_layers, std::span(golden_.prompt_tokens).first(num_tokens), kv_dtype,
                           static_cast<uint32_t>(golden_.prompt_tokens.size() + golden_.greedy_tokens.size()));
  }

  Golden golden_;
  ModelConfig config_;
  std::unique_ptr<Device> device_;
};

class TinyGoldenTest : public GoldenTest {};
class ProbeGoldenTest : public GoldenTest {};

TEST_P(GoldenTest, GreedyLogitsAndTokens) {
  const Prefilled prefilled = Prefill(golden_.prompt_tokens.size(), DType::kF32);
  std::vector<float> logits = prefilled.logits;
  for (size_t i = 0; i < golden_.greedy_tokens.size(); ++i) {
    ExpectSame(kind(), logits, Row(golden_.greedy_logits, i), "greedy token " + std::to_string(i));
    EXPECT_EQ(ArgMax(Row(golden_.greedy_logits, i)), golden_.greedy_tokens[i]);
    // HF's own token goes in, so that a close call does not lead the two apart.
    logits = Decode(prefilled.resident, golden_.greedy_tokens[i], golden_.prompt_tokens.size() + i);
  }
}

// Three sequences, each with a row of its own in one step.
TEST_P(TinyGoldenTest, RowsOfOneStep) {
  std::vector<DecodeRow> rows;
  for (uint32_t i = 0; i < kMaxRows; ++i) {
    const Prefilled prefilled = Prefill(golden_.prompt_tokens.size(), DType::kF32);
    rows.push_back(InputRow(prefilled.resident, golden_.greedy_tokens[0], golden_.prompt_tokens.size()));
  }
  const std::vector<float> logits = DecodeResident(*device_, config_.num_layers, rows);
  for (uint32_t i = 0; i < kMaxRows; ++i) {
    ExpectSame(kind(), Row(logits, i), Row(golden_.greedy_logits, 1), "row " + std::to_string(i));
  }
}

// The tiny models have logits of every prompt position: decode computes them one by one.
TEST_P(TinyGoldenTest, PromptLogits) {
  ASSERT_EQ(golden_.prompt_logits.size(), golden_.prompt_tokens.size() * vocab());
  const Prefilled first = Prefill(1, DType::kF32);
  ExpectSame(kind(), first.logits, Row(golden_.prompt_logits, 0), "prompt token 0");
  for (size_t pos = 1; pos < golden_.prompt_tokens.size(); ++pos) {
    const std::vector<float> logits = Decode(first.resident, golden_.prompt_tokens[pos], pos);
    ExpectSame(kind(), logits, Row(golden_.prompt_logits, pos), "prompt token " + std::to_string(pos));
  }
}

// Rounded KV moves logits, but not the answer.
TEST_P(ProbeGoldenTest, Bf16KvGivesTheSameAnswer) {
  ASSERT_FALSE(golden_.answer.empty());
  const Prefilled prefilled = Prefill(golden_.prompt_tokens.size(), DType::kBf16);
  std::vector<float> logits = prefilled.logits;
  std::vector<uint32_t> tokens;
  for (size_t i = 0; i < golden_.answer.size(); ++i) {
    tokens.push_back(ArgMax(logits));
    logits = Decode(prefilled.resident, tokens.back(), golden_.prompt_tokens.size() + i);
  }
  EXPECT_EQ(BytesFromTokens(tokens), golden_.answer);
}

std::string NameOf(const ::testing::TestParamInfo<std::tuple<DeviceKind, const char*>>& info) {
  return DeviceName(std::get<0>(info.param)) + "_" + std::get<1>(info.param);
}

const auto kInF32 = ::testing::Values(DeviceKind::kHost, DeviceKind::kCuda);
const auto kAllDevices = ::testing::Values(DeviceKind::kHost, DeviceKind::kCuda, DeviceKind::kCudaAsStored);

// One of each family, and of what a family may have (tests/golden/README.md).
const auto kTinyModels =
    ::testing::Values("llama2", "llama3", "llama31", "mistral", "qwen2", "qwen3", "llama3_sharded", "linear", "dynamic",
                      "yarn", "phi3", "smollm3", "olmo2", "granite", "mixtral", "qwen3_moe", "mistral_sliding",
                      "qwen2_sliding", "gemma3", "gpt_oss", "phi3_partial", "glm", "glm4", "gemma2", "phi3_sliding",
                      "mixtral_sliding", "qwen3_sliding", "qwen3_moe_sliding", "smollm3_sliding");

INSTANTIATE_TEST_SUITE_P(Tiny, GoldenTest, ::testing::Combine(kInF32, kTinyModels), NameOf);
INSTANTIATE_TEST_SUITE_P(Probe, GoldenTest,
                         ::testing::Combine(kInF32, ::testing::Values("probe_1k", "probe_4k", "probe_16k")), NameOf);
// All but "dynamic", whose tokens turn otherwise when they are decoded one by one: by their own length, not the
// prompt's.
const auto kDecodedAsPrefilled =
    ::testing::Values("llama2", "llama3", "llama31", "mistral", "qwen2", "qwen3", "llama3_sharded", "linear", "yarn",
                      "phi3", "smollm3", "olmo2", "granite", "mixtral", "qwen3_moe", "mistral_sliding", "qwen2_sliding",
                      "gemma3", "gpt_oss", "phi3_partial", "glm", "glm4", "gemma2", "phi3_sliding", "mixtral_sliding",
                      "qwen3_sliding", "qwen3_moe_sliding", "smollm3_sliding");
INSTANTIATE_TEST_SUITE_P(Models, TinyGoldenTest, ::testing::Combine(kInF32, kDecodedAsPrefilled), NameOf);
INSTANTIATE_TEST_SUITE_P(Models, ProbeGoldenTest,
                         ::testing::Combine(kAllDevices, ::testing::Values("probe_1k", "probe_4k")), NameOf);
INSTANTIATE_TEST_SUITE_P(LongModels, ProbeGoldenTest,
                         ::testing::Combine(::testing::Values(DeviceKind::kCudaAsStored),
                                            ::testing::Values("probe_16k")),
                         NameOf);

}  // namespace
}  // namespace tributary

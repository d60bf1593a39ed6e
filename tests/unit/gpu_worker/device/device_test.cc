// What every device promises (gpu_worker/device/device.h), on the host and, where there is a GPU, on CUDA.
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/device_driver.h"
#include "tests/testutil/random_model.h"
#include "tests/testutil/reference_model.h"
#include "tests/testutil/test_devices.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::AnyOf;
using ::testing::HasSubstr;

constexpr DeviceLimits kLimits{
    .max_batch = 8, .max_partial_slots = 2, .resident_pool_bytes = 64 << 20, .max_prefill_tokens = 2000};

std::shared_ptr<const ModelWeights> MakeWeights(const RandomModelOptions& options) {
  TempDir dir;  // the map outlives the folder
  WriteRandomModel(dir.path(), options);
  auto weights = LoadModelWeights(dir.path());
  TRIBUTARY_CHECK(weights.ok());
  return *std::move(weights);
}

std::unique_ptr<Device> MakeDevice(DeviceKind kind, std::shared_ptr<const ModelWeights> weights, int num_threads = 2) {
  auto device = MakeTestDevice(kind, std::move(weights), kLimits, num_threads);
  TRIBUTARY_CHECK(device.ok());
  return *std::move(device);
}

std::vector<uint32_t> RandomTokens(size_t count, uint32_t vocab_size, uint64_t seed) {
  std::mt19937_64 random(seed);
  std::vector<uint32_t> tokens(count);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(random() % vocab_size);
  return tokens;
}

double MaxDifference(std::span<const float> a, std::span<const double> b) {
  double worst = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    worst = std::max(worst, std::isfinite(a[i]) ? std::abs(a[i] - b[i]) : INFINITY);
  }
  return worst;
}

// Prefill of a part and decode of the rest, against the reference; the worst difference of any
// logit.
double WorstDifference(DeviceKind kind, const RandomModelOptions& options, size_t prompt_tokens, size_t decode_tokens,
                       DType kv_dtype, uint32_t chunk_tokens) {
  const auto weights = MakeWeights(options);
  const std::vector<uint32_t> tokens = RandomTokens(prompt_tokens + decode_tokens, options.vocab_size, options.seed);
  const auto expected = ReferenceModel(*weights, kv_dtype).Logits(tokens);
  const auto device = MakeDevice(kind, weights);
  const Prefilled prefilled = PrefillResident(*device, options.num_layers, std::span(tokens).first(prompt_tokens),
                                              kv_dtype, static_cast<uint32_t>(tokens.size()), chunk_tokens);
  double worst = MaxDifference(prefilled.logits, expected[prompt_tokens - 1]);
  for (size_t pos = prompt_tokens; pos < tokens.size(); ++pos) {
    const DecodeRow row = ContiguousRow(prefilled.resident, tokens[pos], static_cast<uint32_t>(pos));
    worst = std::max(worst, MaxDifference(DecodeResident(*device, options.num_layers, {&row, 1}), expected[pos]));
  }
  return worst;
}

class DeviceTest : public ::testing::TestWithParam<DeviceKind> {
 protected:
  void SetUp() override { TRIBUTARY_SKIP_WITHOUT_DEVICE(GetParam()); }
};

TEST_P(DeviceTest, AgreesWithTheReferenceForEveryFamily) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    for (const bool variant : {false, true}) {
      RandomModelOptions options;
      options.model_type = family;
      options.seed = seed;
      options.tied = variant;
      options.llama3_rope = variant;
      options.attention_bias = variant && options.model_type == "llama";
      options.stored_dtype = variant ? DType::kBf16 : DType::kF32;
      EXPECT_LE(WorstDifference(GetParam(), options, 40, 8, DType::kF32, 512), 1e-4) << family << variant;
    }
  }
}

// Chunks that are no multiple of any tile, key tiles that begin inside a query tile, several key
// tiles.
TEST_P(DeviceTest, LongPromptsInOddChunks) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  RandomModelOptions options;
  options.seed = seed;
  options.hidden_size = 16;
  options.intermediate_size = 16;
  options.head_dim = 8;
  options.num_kv_heads = 1;
  for (const uint32_t chunk_tokens : {512u, 450u, 67u}) {
    EXPECT_LE(WorstDifference(GetParam(), options, 600, 2, DType::kF32, chunk_tokens), 1e-4) << chunk_tokens;
  }
}

TEST_P(DeviceTest, KvIsRoundedBeforeAnybodyReadsIt) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  RandomModelOptions options;
  options.seed = seed;
  for (const DType dtype : {DType::kBf16, DType::kF16}) {
    // A value near a rounding boundary may round the other way in f64: one bf16 ulp of one key is
    // 4e-3 of it.
    EXPECT_LE(WorstDifference(GetParam(), options, 40, 8, dtype, 512), 2e-2) << DTypeName(dtype);
  }
  if (GetParam() != DeviceKind::kHost) return;  // prefill rounds q, too, for the GPU's matrix units
  // One layer's K and V of a prompt come out the same on both paths, bit for bit but for a rare value next to a
  // rounding boundary (the best of four prompts has none). So prefill and decode agree far closer than one rounding
  // step.
  options.num_layers = 1;
  const auto weights = MakeWeights(options);
  double best = INFINITY;
  for (uint64_t prompt = 0; prompt < 4; ++prompt) {
    const std::vector<uint32_t> tokens = RandomTokens(30, options.vocab_size, seed + prompt);
    const auto device = MakeDevice(GetParam(), weights);
    const Prefilled all = PrefillResident(*device, 1, tokens, DType::kBf16, 30);
    const Prefilled most = PrefillResident(*device, 1, std::span(tokens).first(29), DType::kBf16, 30);
    const DecodeRow row = ContiguousRow(most.resident, tokens[29], 29);
    const std::vector<float> last = DecodeResident(*device, 1, {&row, 1});
    best = std::min(best, MaxDifference(last, std::vector<double>(all.logits.begin(), all.logits.end())));
  }
  EXPECT_LE(best, 2e-5);
}

// Large enough for every loop to be shared out.
RandomModelOptions SharedWorkModel(uint64_t seed) {
  RandomModelOptions options;
  options.seed = seed;
  options.hidden_size = 128;
  options.intermediate_size = 1024;
  options.num_q_heads = 8;
  options.num_kv_heads = 4;
  options.head_dim = 16;
  return options;
}

TEST(HostDeviceTest, ResultsDependNeitherOnThreadsNorOnTheBatch) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  const RandomModelOptions options = SharedWorkModel(seed);
  const auto weights = MakeWeights(options);
  constexpr uint32_t kBatch = 8;
  std::vector<std::vector<float>> alone_logits;
  std::vector<std::vector<float>> prefill_logits;
  for (const int num_threads : {1, 3}) {
    const auto device = MakeDevice(DeviceKind::kHost, weights, num_threads);
    std::vector<DecodeRow> rows;
    for (uint32_t r = 0; r < kBatch; ++r) {
      const uint32_t length = 500 + 31 * r;
      const Prefilled prefilled =
          PrefillResident(*device, 2, RandomTokens(length, options.vocab_size, seed + r), DType::kF32, length + 1);
      rows.push_back(ContiguousRow(prefilled.resident, r, length));
      if (num_threads == 1) prefill_logits.push_back(prefilled.logits);
      EXPECT_EQ(prefilled.logits, prefill_logits[r]);
    }
    const std::vector<float> batch_logits = DecodeResident(*device, 2, rows);
    for (uint32_t r = 0; r < kBatch; ++r) {
      const std::vector<float> alone = DecodeResident(*device, 2, {&rows[r], 1});
      if (num_threads == 1) alone_logits.push_back(alone);
      EXPECT_EQ(alone, alone_logits[r]);
      const auto begin = batch_logits.begin() + static_cast<ptrdiff_t>(r * size_t{options.vocab_size});
      EXPECT_EQ(std::vector<float>(begin, begin + options.vocab_size), alone);
    }
  }
}

TEST_P(DeviceTest, ADecodeStepMayRunBetweenPrefillCalls) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  RandomModelOptions options;
  options.seed = seed;
  const auto device = MakeDevice(GetParam(), MakeWeights(options));
  const std::vector<uint32_t> tokens = RandomTokens(50, options.vocab_size, seed);
  const Prefilled quiet = PrefillResident(*device, 2, tokens, DType::kF32, 51);
  const DecodeRow row = ContiguousRow(quiet.resident, 3, 50);
  const std::vector<float> quiet_step = DecodeResident(*device, 2, {&row, 1});
  std::vector<float> step;
  const Prefilled disturbed = PrefillResident(*device, 2, tokens, DType::kF32, 50, 16, [&](Prefill&, uint32_t) {
    step = DecodeResident(*device, 2, {&row, 1});
  });
  EXPECT_EQ(step, quiet_step);
  // Chunks of 16 round differently from one of 50; the decode step must not.
  EXPECT_LE(MaxDifference(disturbed.logits, std::vector<double>(quiet.logits.begin(), quiet.logits.end())), 1e-4);
}

// What a prompt gives does not depend on what is prefilled at the same time, nor does what it leaves in its window.
TEST_P(DeviceTest, PrefillsThatTakeTurnsKeepTheirBits) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  RandomModelOptions options;
  options.seed = seed;
  const auto device = MakeDevice(GetParam(), MakeWeights(options));
  const std::vector<size_t> lengths = {70, 1, 33};
  std::vector<std::vector<uint32_t>> prompts;
  std::vector<std::vector<float>> alone, alone_steps;
  for (const size_t length : lengths) {
    const auto tokens = static_cast<uint32_t>(length);
    prompts.push_back(RandomTokens(length, options.vocab_size, seed + length));
    const Prefilled prompt = PrefillResident(*device, 2, prompts.back(), DType::kBf16, tokens + 1);
    alone.push_back(prompt.logits);
    const DecodeRow row = ContiguousRow(prompt.resident, 3, tokens);
    alone_steps.push_back(DecodeResident(*device, 2, {&row, 1}));
  }
  std::vector<ResidentId> residents;
  std::vector<std::unique_ptr<Prefill>> prefills;
  const std::unique_ptr<Prefill> dropped = device->BeginPrefill(prompts[0], DType::kF32).value();
  for (const std::vector<uint32_t>& prompt : prompts) {
    residents.push_back(device->ReserveResident({static_cast<uint32_t>(prompt.size()) + 1, DType::kBf16}).value());
    prefills.push_back(device->BeginPrefill(prompt, DType::kBf16).value());
  }
  for (uint32_t layer = 0; layer < 2; ++layer) {
    dropped->Project(layer, 0, prompts[0].size());
    for (size_t i = 0; i < prompts.size(); ++i) prefills[i]->Project(layer, 0, prompts[i].size());
    for (size_t i = prompts.size(); i-- > 0;) {
      prefills[i]->Keep(layer, residents[i], 0, {0, static_cast<uint32_t>(prompts[i].size())});
      prefills[i]->Attend(layer, 0, prompts[i].size());
    }
  }
  for (const size_t i : {size_t{1}, size_t{0}, size_t{2}}) {
    const std::span<const float> logits = prefills[i]->End();
    EXPECT_EQ(std::vector<float>(logits.begin(), logits.end()), alone[i]) << i;
    prefills[i].reset();
    const DecodeRow row = ContiguousRow(residents[i], 3, static_cast<uint32_t>(prompts[i].size()));
    EXPECT_EQ(DecodeResident(*device, 2, {&row, 1}), alone_steps[i]) << i;
  }
}

TEST_P(DeviceTest, RefusesBadPromptsAndLimits) {
  const auto weights = MakeWeights({});
  const auto device = MakeDevice(GetParam(), weights);
  const auto refusal = [&](const std::vector<uint32_t>& prompt, DType dtype) {
    return device->BeginPrefill(prompt, dtype).status();
  };
  EXPECT_TRUE(absl::IsInvalidArgument(refusal({}, DType::kF32)));
  EXPECT_THAT(std::string(refusal(std::vector<uint32_t>(2001, 1), DType::kF32).message()),
              HasSubstr("prompt of 2001 tokens; it must have 1 to 2000"));
  EXPECT_THAT(std::string(refusal({1, 61}, DType::kF32).message()),
              HasSubstr("prompt token 1 is 61; the vocabulary has 61"));
  EXPECT_TRUE(absl::IsInvalidArgument(refusal({1}, DType::kUnset)));
  EXPECT_TRUE(refusal({1}, DType::kF32).ok());

  DeviceLimits limits = kLimits;
  limits.resident_pool_bytes = uint64_t{1} << 60;
  const auto too_big = MakeTestDevice(GetParam(), weights, limits);
  EXPECT_TRUE(absl::IsResourceExhausted(too_big.status()));
  EXPECT_THAT(std::string(too_big.status().message()), AnyOf(HasSubstr("1152921504606846976 for the resident pool"),
                                                             HasSubstr("1099511627776 MiB for the resident pool")));
  limits = kLimits;
  limits.max_batch = 0;
  EXPECT_TRUE(absl::IsInvalidArgument(MakeTestDevice(GetParam(), weights, limits).status()));
  EXPECT_TRUE(absl::IsInvalidArgument(MakeHostDevice(weights, kLimits, 0).status()));
}

TEST_P(DeviceTest, CountsKvBytes) {
  const auto device = MakeDevice(GetParam(), MakeWeights({}));
  EXPECT_EQ(device->KvBytesPerToken(DType::kBf16), 2u * 2 * 2 * 16 * 2);
  EXPECT_EQ(device->memory().resident_used_bytes, 0u);
  const ResidentId id = *device->ReserveResident({8, DType::kBf16});
  EXPECT_EQ(device->memory().resident_used_bytes, 8 * device->KvBytesPerToken(DType::kBf16));
  device->ReleaseResident(id);
  EXPECT_EQ(device->memory().resident_used_bytes, 0u);
  EXPECT_EQ(device->memory().resident_pool_bytes, kLimits.resident_pool_bytes);
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceTest, ::testing::Values(DeviceKind::kHost, DeviceKind::kCuda),
                         [](const auto& info) { return DeviceName(info.param); });

}  // namespace
}  // namespace tributary

// What only the CUDA device does: graphs for every batch size, the exchange with a running GPU, compute dtypes,
// refusals.
#include <algorithm>
#include <chrono>
#include <cmath>
#include <random>
#include <thread>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/device_driver.h"
#include "tests/testutil/random_model.h"
#include "tests/testutil/test_devices.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::Each;
using ::testing::HasSubstr;

constexpr uint32_t kLayers = 2;
constexpr uint32_t kVocab = 61;
constexpr DeviceLimits kLimits{
    .max_batch = 64, .max_partial_slots = 2, .resident_pool_bytes = 64 << 20, .max_prefill_tokens = 100};

std::shared_ptr<const ModelWeights> MakeWeights(const RandomModelOptions& options) {
  TempDir dir;  // the map outlives the folder
  WriteRandomModel(dir.path(), options);
  auto weights = LoadModelWeights(dir.path());
  TRIBUTARY_CHECK(weights.ok());
  return *std::move(weights);
}

std::unique_ptr<Device> MakeDevice(std::shared_ptr<const ModelWeights> weights, const CudaDeviceOptions& options) {
  auto device = MakeCudaDevice(std::move(weights), kLimits, options);
  if (!device.ok()) ADD_FAILURE() << device.status();
  TRIBUTARY_CHECK(device.ok());
  return *std::move(device);
}

// Wide enough for tensor cores, several splits and every unrolled loop.
RandomModelOptions WideModel(uint64_t seed) {
  RandomModelOptions options;
  options.seed = seed;
  options.hidden_size = 256;
  options.intermediate_size = 512;
  options.num_q_heads = 8;
  options.num_kv_heads = 2;
  options.head_dim = 64;
  return options;
}

// Sequences that were decoded from their first token on, together.
struct Sequences {
  std::vector<ResidentId> resident;
  std::vector<std::vector<uint32_t>> tokens;  // the last one is not yet decoded

  DecodeRow Row(size_t i) const {
    return ContiguousRow(resident[i], tokens[i].back(), static_cast<uint32_t>(tokens[i].size() - 1));
  }
  std::vector<DecodeRow> Rows() const {
    std::vector<DecodeRow> rows;
    for (size_t i = 0; i < resident.size(); ++i) rows.push_back(Row(i));
    return rows;
  }
};

Sequences Feed(Device& device, std::span<const size_t> lengths, std::span<const DType> dtypes, uint64_t seed) {
  std::mt19937_64 random(seed);
  Sequences sequences;
  for (size_t i = 0; i < lengths.size(); ++i) {
    sequences.resident.push_back(
        *device.ReserveResident({static_cast<uint32_t>(lengths[i]), dtypes[i % dtypes.size()]}));
    sequences.tokens.emplace_back(lengths[i]);
    for (uint32_t& token : sequences.tokens.back()) token = static_cast<uint32_t>(random() % kVocab);
  }
  for (uint32_t pos = 0; pos + 1 < *std::max_element(lengths.begin(), lengths.end()); ++pos) {
    std::vector<DecodeRow> rows;
    for (size_t i = 0; i < lengths.size(); ++i) {
      if (pos + 1 >= lengths[i]) continue;
      rows.push_back(ContiguousRow(sequences.resident[i], sequences.tokens[i][pos], pos));
      rows.back().may_have_partials = false;
    }
    DecodeResident(device, kLayers, rows);
  }
  return sequences;
}

double MaxDifference(std::span<const float> a, std::span<const float> b) {
  double worst = a.size() == b.size() ? 0 : INFINITY;
  for (size_t i = 0; i < std::min(a.size(), b.size()); ++i) {
    worst = std::max<double>(worst, std::isfinite(a[i]) ? std::abs(a[i] - b[i]) : INFINITY);
  }
  return worst;
}

std::vector<float> Row(const std::vector<float>& logits, size_t i) {
  const auto begin = logits.begin() + static_cast<ptrdiff_t>(i * kVocab);
  return {begin, begin + kVocab};
}

class CudaDeviceTest : public ::testing::Test {
 protected:
  void SetUp() override { TRIBUTARY_SKIP_WITHOUT_DEVICE(DeviceKind::kCuda); }

  // The worst difference of any logit from the host device's, decoding alone.
  double DifferenceFromHost(const RandomModelOptions& model, DType compute, DType kv_dtype) {
    const auto weights = MakeWeights(model);
    CudaDeviceOptions options;
    options.compute_dtype = compute;
    const auto cuda = MakeDevice(weights, options);
    const auto host = *MakeHostDevice(weights, kLimits, 1);
    const size_t lengths[] = {40};
    double worst = 0;
    std::vector<float> logits[2];
    for (Device* device : {cuda.get(), host.get()}) {
      const Sequences sequences = Feed(*device, lengths, {&kv_dtype, 1}, seed_);
      logits[device == host.get()] = DecodeResident(*device, kLayers, sequences.Rows());
    }
    worst = MaxDifference(logits[0], logits[1]);
    return worst;
  }

  const uint64_t seed_ = TestSeed();
};

TEST_F(CudaDeviceTest, DecodesLikeTheHostForEveryFamily) {
  SCOPED_TRACE(SeedTrace(seed_));
  for (const char* family : {"llama", "mistral", "qwen2", "qwen3"}) {
    for (const bool variant : {false, true}) {
      RandomModelOptions model;
      model.model_type = family;
      model.seed = seed_;
      model.tied = variant;
      model.llama3_rope = variant;
      model.attention_bias = variant && model.model_type == "llama";
      EXPECT_LE(DifferenceFromHost(model, DType::kF32, DType::kF32), 1e-4) << family << variant;
    }
  }
}

TEST_F(CudaDeviceTest, EveryPairOfDTypes) {
  SCOPED_TRACE(SeedTrace(seed_));
  for (const DType stored : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (const DType kv_dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
      RandomModelOptions model = WideModel(seed_);
      model.stored_dtype = stored;
      // Of logits of order 1: f32 differs by the order of sums and by keys that round the other way; bf16 has 8 bits.
      const double bound = stored == DType::kF32 ? 2e-2 : stored == DType::kF16 ? 4e-2 : 2e-1;
      EXPECT_LE(DifferenceFromHost(model, DType::kUnset, kv_dtype), bound)
          << DTypeName(stored) << " " << DTypeName(kv_dtype);
      EXPECT_LE(DifferenceFromHost(model, DType::kF32, kv_dtype), 2e-2) << "f32 " << DTypeName(kv_dtype);
    }
  }
}

// What the order of sums may change in a logit of order 1, if matrices are f32. The row's own keys and values are
// rounded to what is stored: a sum that differs in its last bit may round the other way, and then an element differs by
// a step of bf16 (2^-8) or f16 (2^-11), in each layer.
double RoundingBound(DType stored) { return stored == DType::kF32 ? 1e-4 : stored == DType::kF16 ? 1e-3 : 5e-3; }

// Rows of different lengths and KV dtypes; every padded batch size, and cuBLASLt beyond 16 rows.
TEST_F(CudaDeviceTest, ARowIsTheSameInBatchesOfAnySize) {
  SCOPED_TRACE(SeedTrace(seed_));
  std::mt19937_64 random(seed_);
  std::vector<size_t> lengths(64);
  for (size_t& length : lengths) length = RandomInt<size_t>(random, 1, 60);
  lengths[0] = 700;  // several splits
  const DType dtypes[] = {DType::kF32, DType::kBf16, DType::kF16};
  for (const bool deterministic : {false, true}) {
    for (const DType compute : {DType::kF32, DType::kBf16}) {
      CudaDeviceOptions options;
      options.deterministic = deterministic;
      options.compute_dtype = compute;
      const auto device = MakeDevice(MakeWeights(WideModel(seed_)), options);
      const Sequences sequences = Feed(*device, lengths, dtypes, seed_);
      std::vector<std::vector<float>> alone;
      for (size_t i = 0; i < lengths.size(); ++i) {
        const DecodeRow row = sequences.Row(i);
        alone.push_back(DecodeResident(*device, kLayers, {&row, 1}));
      }
      for (const size_t batch : {2, 3, 5, 8, 11, 16, 17, 33, 64}) {
        const std::vector<DecodeRow> rows = sequences.Rows();
        const std::vector<float> logits = DecodeResident(*device, kLayers, std::span(rows).first(batch));
        for (size_t i = 0; i < batch; ++i) {
          const double difference = MaxDifference(Row(logits, i), alone[i]);
          const DType stored = dtypes[i % std::size(dtypes)];
          EXPECT_LE(difference, deterministic            ? 0
                                : compute == DType::kF32 ? RoundingBound(stored)
                                                         : 1e-1)
              << "row " << i << " of " << batch << ", " << DTypeName(compute) << ", KV " << DTypeName(stored);
        }
      }
    }
  }
}

TEST_F(CudaDeviceTest, StepsWithoutAnExchangeHaveTheSameBits) {
  SCOPED_TRACE(SeedTrace(seed_));
  const auto device = MakeDevice(MakeWeights(WideModel(seed_)), {});
  const size_t lengths[] = {30, 7, 300};
  const DType dtype = DType::kBf16;
  const Sequences sequences = Feed(*device, lengths, {&dtype, 1}, seed_);
  std::vector<DecodeRow> rows = sequences.Rows();
  const std::vector<float> with = DecodeResident(*device, kLayers, rows);
  const DeviceStepTimes times = device->step_times();
  EXPECT_GT(times.step_ns, 0);
  EXPECT_LE(times.remote_wait_ns, times.step_ns);
  ASSERT_EQ(times.spans.size(), 3 * kLayers + 1);
  for (const DeviceSpan& span : times.spans) EXPECT_LE(span.begin_ns, span.end_ns) << span.name;
  for (DecodeRow& row : rows) row.may_have_partials = false;
  EXPECT_EQ(DecodeResident(*device, kLayers, rows), with);
  EXPECT_EQ(device->step_times().remote_wait_ns, 0);
}

TEST_F(CudaDeviceTest, SamplesByItselfOrHandsLogitsOut) {
  SCOPED_TRACE(SeedTrace(seed_));
  const auto device = MakeDevice(MakeWeights(WideModel(seed_)), {});
  ASSERT_TRUE(device->samples());
  const size_t lengths[] = {30, 7, 3};
  const DType dtype = DType::kBf16;
  const Sequences sequences = Feed(*device, lengths, {&dtype, 1}, seed_);
  std::vector<DecodeRow> rows = sequences.Rows();
  rows[1].sampling = {.temperature = 0.7f, .seed = seed_, .position = 7};
  const std::vector<float> logits = DecodeResident(*device, kLayers, rows);
  ASSERT_EQ(device->sampled().size(), 3u);
  const std::vector<float> greedy = Row(logits, 0);
  const auto best = static_cast<uint32_t>(std::max_element(greedy.begin(), greedy.end()) - greedy.begin());
  double sum = 0;
  for (const float logit : greedy) sum += std::exp(static_cast<double>(logit) - greedy[best]);
  EXPECT_EQ(device->sampled()[0].token, best);
  EXPECT_NEAR(device->sampled()[0].logprob, -std::log(sum), 1e-5);
  const uint32_t drawn = device->sampled()[1].token;
  for (DecodeRow& row : rows) row.wants_logits = false;
  EXPECT_TRUE(DecodeResident(*device, kLayers, rows).empty());
  EXPECT_EQ(device->sampled()[0].token, best);
  EXPECT_EQ(device->sampled()[1].token, drawn);
}

// A row that loses its node goes on without partials; nobody else notices.
TEST_F(CudaDeviceTest, ARowThatFailsInALayerDisturbsNoOther) {
  SCOPED_TRACE(SeedTrace(seed_));
  const auto device = MakeDevice(MakeWeights(WideModel(seed_)), {});
  const size_t lengths[] = {30, 20};
  const DType dtype = DType::kBf16;
  const Sequences sequences = Feed(*device, lengths, {&dtype, 1}, seed_);
  const std::vector<DecodeRow> rows = sequences.Rows();
  std::vector<float> logits[2];
  for (const bool fails : {false, true}) {
    device->BeginStep(rows);
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      EXPECT_EQ(device->AwaitQuery(layer).size(), 2u * 8 * 64);
      device->AttendResident(layer);
      PartialSlots& slots = device->partial_slots();
      std::fill(slots.out.begin(), slots.out.end(), 0.25f);
      std::fill(slots.lse_ln.begin(), slots.lse_ln.end(), 1.5f);
      const uint32_t num_slots[] = {2, fails && layer == 1 ? 0u : 1u};
      device->FinishLayer(layer, num_slots);
    }
    const std::span<const float> all = device->EndStep();
    logits[fails].assign(all.begin(), all.end());
  }
  EXPECT_EQ(Row(logits[0], 0), Row(logits[1], 0));
  EXPECT_NE(Row(logits[0], 1), Row(logits[1], 1));
}

TEST_F(CudaDeviceTest, TheGpuWaitsBoundedly) {
  CudaDeviceOptions options;
  options.max_wait_ns = 20'000'000;
  const auto device = MakeDevice(MakeWeights(WideModel(seed_)), options);
  const size_t lengths[] = {5};
  const DType dtype = DType::kBf16;
  const Sequences sequences = Feed(*device, lengths, {&dtype, 1}, seed_);
  const DecodeRow row = sequences.Row(0);
  const std::vector<float> before = DecodeResident(*device, kLayers, {&row, 1});
  device->BeginStep({&row, 1});
  for (uint32_t layer = 0; layer < kLayers; ++layer) device->AwaitQuery(layer);  // and no answer
  const std::span<const float> logits = device->EndStep();
  EXPECT_TRUE(absl::IsDeadlineExceeded(device->step_status())) << device->step_status();
  EXPECT_THAT(logits, Each(::testing::IsNan()));
  EXPECT_TRUE(device->status().ok());
  EXPECT_EQ(DecodeResident(*device, kLayers, {&row, 1}), before);
  EXPECT_TRUE(device->step_status().ok());
}

TEST_F(CudaDeviceTest, MayBeDestroyedDuringAStep) {
  auto device = MakeDevice(MakeWeights(WideModel(seed_)), {});
  const DecodeRow row = ContiguousRow(*device->ReserveResident({4, DType::kBf16}), 1, 0);
  device->BeginStep({&row, 1});
  device->AwaitQuery(0);
  const auto begin = std::chrono::steady_clock::now();
  device.reset();
  EXPECT_LT(std::chrono::steady_clock::now() - begin, std::chrono::seconds(30));  // not max_wait_ns
}

// As in the worker, whose loop thread begins with a prefill. A new thread is on GPU 0 until it says otherwise.
TEST_F(CudaDeviceTest, ServesAThreadThatDidNotMakeIt) {
  if (const absl::Status second = CheckCudaDevice(1); !second.ok()) {
    GTEST_SKIP() << "needs two GPUs: " << second.message();
  }
  CudaDeviceOptions options;
  options.ordinal = 1;
  const auto device = MakeDevice(MakeWeights(WideModel(seed_)), options);
  std::thread([&] {
    const std::vector<uint32_t> prompt(5, 1);
    const std::unique_ptr<Prefill> prefill = device->BeginPrefill(prompt, DType::kBf16).value();
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      prefill->Project(layer, 0, prompt.size());
      prefill->Attend(layer, 0, prompt.size());
    }
    EXPECT_TRUE(std::isfinite(prefill->End()[0]));
  }).join();
  EXPECT_TRUE(device->status().ok()) << device->status();
}

TEST_F(CudaDeviceTest, RefusesWhatItCannotServe) {
  const auto weights = MakeWeights({});
  CudaDeviceOptions options;
  options.ordinal = 4096;
  const absl::Status ordinal = MakeCudaDevice(weights, kLimits, options).status();
  EXPECT_TRUE(absl::IsNotFound(ordinal)) << ordinal;
  DeviceLimits limits = kLimits;
  limits.resident_pool_bytes = uint64_t{1} << 50;
  const absl::Status memory = MakeCudaDevice(weights, limits, {}).status();
  EXPECT_TRUE(absl::IsResourceExhausted(memory)) << memory;
  EXPECT_THAT(std::string(memory.message()), HasSubstr("--resident-pool-bytes"));
  RandomModelOptions odd;
  odd.head_dim = 10;
  const absl::Status shape = MakeCudaDevice(MakeWeights(odd), kLimits, {}).status();
  EXPECT_TRUE(absl::IsInvalidArgument(shape)) << shape;
  EXPECT_THAT(std::string(shape.message()), HasSubstr("head_dim"));
}

TEST(CudaDeviceWithoutGpuTest, SaysWhatIsMissingAndWhatToDo) {
  const absl::Status usable = CheckCudaDevice(0);
  if (usable.ok()) GTEST_SKIP() << "this machine has a GPU";
  EXPECT_TRUE(absl::IsUnavailable(usable) || absl::IsUnimplemented(usable)) << usable;
  EXPECT_THAT(std::string(usable.message()), HasSubstr("--device host"));
  EXPECT_EQ(MakeCudaDevice(MakeWeights({}), kLimits, {}).status(), usable);
}

TEST(CudaDeviceWithoutGpuTest, ParsesOrdinals) {
  if (absl::IsUnimplemented(CheckCudaDevice(0))) GTEST_SKIP() << "a build without CUDA";
  EXPECT_EQ(*ParseCudaOrdinal("cuda"), 0);
  EXPECT_EQ(*ParseCudaOrdinal("cuda:0"), 0);
  EXPECT_EQ(*ParseCudaOrdinal("cuda:17"), 17);
  for (const char* bad : {"cuda:", "cuda:-1", "cuda:1x", "cudax", "cuda0", "cuda:99999999999"}) {
    EXPECT_TRUE(absl::IsInvalidArgument(ParseCudaOrdinal(bad).status())) << bad;
  }
}

}  // namespace
}  // namespace tributary

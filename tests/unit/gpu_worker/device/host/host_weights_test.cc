#include "gpu_worker/device/host/host_weights.h"

#include <cmath>
#include <vector>

#include "gmock/gmock.h"
#include "gpu_worker/device/host/host_device.h"
#include "gtest/gtest.h"
#include "tests/testutil/device_driver.h"
#include "tests/testutil/random_model.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

std::shared_ptr<const ModelWeights> MakeWeights(DType stored_dtype, bool tied = false) {
  RandomModelOptions options;
  options.stored_dtype = stored_dtype;
  options.tied = tied;
  TempDir dir;  // the map outlives the folder
  WriteRandomModel(dir.path(), options);
  return *LoadModelWeights(dir.path());
}

TEST(HostWeightsTest, StoredMatricesAreReadWhereTheFileIsMapped) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    const auto source = MakeWeights(dtype, true);
    ThreadPool pool(2);
    const HostWeights weights(source, WeightDType::kStored, pool);
    const LayerWeights& layer = source->layers[1];
    const MatrixView& qkv = weights.qkv(1);
    EXPECT_EQ(qkv.parts[0].data, layer.q->bytes.data());
    EXPECT_EQ(qkv.parts[1].data, layer.k->bytes.data());
    EXPECT_EQ(qkv.parts[2].data, layer.v->bytes.data());
    EXPECT_EQ(qkv.out, weights.q_dim() + 2 * weights.kv_dim());
    EXPECT_EQ(weights.gate_up(1).parts[1].data, layer.up->bytes.data());
    EXPECT_EQ(weights.lm_head().parts[0].data, source->embedding->bytes.data());
    EXPECT_EQ(static_cast<int>(weights.o(0).parts[0].dtype), static_cast<int>(dtype));
  }
}

TEST(HostWeightsTest, BytesAreThoseOfTheMatrices) {
  const auto source = MakeWeights(DType::kBf16);
  // Two layers of hidden 48, intermediate 80, four heads of 16 and two of KV; a head of 61 tokens.
  const uint64_t rows_of_48 = 2 * (64 + 2 * 32 + 2 * 80) + 61;
  const uint64_t table = 2 * 61 * 48;  // the embedding, of which rows are read as they are stored
  EXPECT_EQ(HostWeights::Bytes(*source, WeightDType::kStored), 2 * (rows_of_48 * 48 + 2 * 48 * (64 + 80)) + table);
  // One scale for up to 64 inputs.
  EXPECT_EQ(HostWeights::Bytes(*source, WeightDType::kInt8),
            rows_of_48 * (48 + 4) + 2 * 48 * (64 + 4) + 2 * 48 * (80 + 8) + table);
}

TEST(HostWeightsTest, ADeviceOfInt8IsCloseToOneOfWhatIsStored) {
  const auto source = MakeWeights(DType::kBf16, true);
  const DeviceLimits limits{.max_batch = 2, .resident_pool_bytes = 1 << 20, .max_prefill_tokens = 100};
  std::vector<float> prefill[2], decode[2];
  for (const WeightDType dtype : {WeightDType::kStored, WeightDType::kInt8}) {
    const auto device = MakeHostDevice(source, limits, 2, dtype);
    ASSERT_TRUE(device.ok()) << device.status();
    const std::vector<uint32_t> tokens = {1, 2, 3, 4, 5, 60, 7, 8, 9};
    const Prefilled filled = PrefillResident(**device, 2, tokens, DType::kF32, 20);
    const DecodeRow row = ContiguousRow(filled.resident, 11, 9);
    prefill[static_cast<int>(dtype)] = filled.logits;
    decode[static_cast<int>(dtype)] = DecodeResident(**device, 2, {&row, 1});
  }
  for (const auto& logits : {prefill, decode}) {
    double difference = 0, size = 0;
    for (size_t i = 0; i < logits[0].size(); ++i) {
      difference += std::pow(logits[0][i] - logits[1][i], 2);
      size += std::pow(logits[0][i], 2);
    }
    // A weight is off by 0.6 % of its size, in each of a layer's products; and it is another computation.
    EXPECT_LT(std::sqrt(difference / size), 0.04);
    EXPECT_GT(difference, 0);
  }
}

TEST(HostWeightsTest, ADTypeThatIsNoneIsNamed) {
  EXPECT_EQ(*ParseWeightDType("stored"), WeightDType::kStored);
  EXPECT_EQ(*ParseWeightDType("int8"), WeightDType::kInt8);
  const absl::Status status = ParseWeightDType("int3").status();
  EXPECT_TRUE(absl::IsInvalidArgument(status));
  EXPECT_THAT(std::string(status.message()), HasSubstr("'int3'; use stored or int8"));
}

}  // namespace
}  // namespace tributary

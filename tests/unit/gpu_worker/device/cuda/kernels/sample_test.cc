// Sample() against the host's sampler, which it must equal.
#include "gpu_worker/device/cuda/kernels/sample.h"

#include "gpu_worker/sequence/sampler.h"
#include "tests/unit/gpu_worker/device/cuda/kernels/kernel_test_util.h"

namespace tributary::gpu {
namespace {

class SampleTest : public KernelTest {
 protected:
  std::vector<SampleResult> Run(const std::vector<float>& logits, const std::vector<SampleRowDesc>& rows) {
    DeviceArray<float> logits_device(logits);
    DeviceArray<SampleRowDesc> rows_device(rows);
    DeviceArray<SampleResult> results(rows.size());
    ExpectCudaOk(Sample({.logits = logits_device.get(),
                         .rows = rows_device.get(),
                         .results = results.get(),
                         .num_rows = static_cast<uint32_t>(rows.size()),
                         .vocab_size = static_cast<uint32_t>(logits.size() / rows.size())},
                        launch_));
    return results.Fetch();
  }

  // Compares rows with the host's choice. A draw may differ where it lies at a bound, with a chance of some 1e-6.
  void Check(const std::vector<float>& logits, const std::vector<SampleRowDesc>& rows) {
    const size_t vocab_size = logits.size() / rows.size();
    const std::vector<SampleResult> results = Run(logits, rows);
    for (size_t r = 0; r < rows.size(); ++r) {
      const SampleRowDesc& row = rows[r];
      SCOPED_TRACE(testing::Message() << "row " << r << " temperature " << row.temperature << " top_k " << row.top_k
                                      << " top_p " << row.top_p);
      const SampledToken expected = tributary::Sample(std::span(logits).subspan(r * vocab_size, vocab_size),
                                                      {row.temperature, row.top_k, row.top_p, row.seed}, row.position);
      ASSERT_EQ(results[r].token, expected.token);
      ASSERT_NEAR(results[r].logprob, expected.logprob, 1e-5);
    }
  }

  SampleRowDesc RandomRow(uint32_t vocab_size) {
    SampleRowDesc row;
    row.seed = random_();
    row.position = RandomInt(random_, uint64_t{0}, uint64_t{1} << 20);
    row.temperature = RandomInt(random_, 0, 4) == 0 ? 0.0f : 0.25f * static_cast<float>(RandomInt(random_, 1, 8));
    if (RandomInt(random_, 0, 1) == 0) row.top_k = RandomInt(random_, 1u, vocab_size + 2);
    if (RandomInt(random_, 0, 1) == 0) row.top_p = static_cast<float>(RandomInt(random_, 1, 100)) / 100.0f;
    return row;
  }
};

TEST_F(SampleTest, EqualsTheHost) {
  for (const uint32_t vocab_size : {1u, 2u, 61u, 1024u, 5000u}) {
    const uint32_t num_rows = TestsAreSmall() ? 4 : 60;
    std::vector<SampleRowDesc> rows;
    for (uint32_t r = 0; r < num_rows; ++r) rows.push_back(RandomRow(vocab_size));
    Check(RandomNormal(random_, size_t{num_rows} * vocab_size, 3.0f), rows);
  }
}

// Equal logits, so that only the order of tokens decides; -0 equals 0.
TEST_F(SampleTest, TiesGoToTheLowerToken) {
  const uint32_t vocab_size = 300, num_rows = 20;
  std::vector<float> logits(num_rows * vocab_size);
  for (float& logit : logits)
    logit = RandomInt(random_, 0, 3) == 0 ? 1.0f : RandomInt(random_, 0, 1) == 0 ? 0.0f : -0.0f;
  std::vector<SampleRowDesc> rows;
  for (uint32_t r = 0; r < num_rows; ++r) rows.push_back(RandomRow(vocab_size));
  Check(logits, rows);
}

TEST_F(SampleTest, LargeVocabulary) {
  if (TestsAreSmall()) return;
  const uint32_t vocab_size = 128256;
  std::vector<SampleRowDesc> rows = {{.temperature = 0},
                                     {.seed = 1, .temperature = 1},
                                     {.seed = 2, .temperature = 0.7f, .top_p = 0.95f, .top_k = 50},
                                     {.seed = 3, .temperature = 1.5f, .top_p = 0.9f}};
  Check(RandomNormal(random_, rows.size() * vocab_size, 2.5f), rows);
}

TEST_F(SampleTest, NotFinite) {
  const std::vector<float> logits = {-INFINITY, -INFINITY, NAN, 2.0f, NAN, -INFINITY};
  const std::vector<SampleResult> results = Run(logits, {{.temperature = 0}, {.seed = 5, .temperature = 1}});
  EXPECT_LT(results[0].token, 3u);
  EXPECT_TRUE(std::isnan(results[0].logprob));
  EXPECT_LT(results[1].token, 3u);
  EXPECT_TRUE(std::isnan(results[1].logprob));
}

}  // namespace
}  // namespace tributary::gpu

#include "gpu_worker/device/host/resident_attention.h"

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "attention/reference.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr uint32_t kCapacity = 12000;

// Keeps what it is told of the attention, as HGCA's facet does.
class WeightsFacet : public HostFacet {
 public:
  explicit WeightsFacet(const AttentionShape& shape) : HostFacet(Rows::kAll), weights(shape.num_q_heads) {}
  void OnAttended(const HostAttention& attention) override {
    const size_t group = attention.lse_ln.size();
    for (const WeightRun& run : attention.weights) {
      const size_t tokens = run.slots.end - run.slots.begin;
      for (size_t head = 0; head < group; ++head) {
        std::vector<float>& all = weights[attention.kv_head * group + head];
        const auto row = run.weights.subspan(head * tokens, tokens);
        all.insert(all.end(), row.begin(), row.end());
      }
    }
  }
  std::vector<std::vector<float>> weights;  // by query head, in token order
};

class ResidentAttentionTest : public ::testing::TestWithParam<DType> {
 protected:
  ResidentAttentionTest()
      : cache_(config_.attention, 1, uint64_t{64} << 20), id_(*cache_.Reserve({kCapacity, dtype()})) {
    const AttentionShape& shape = config_.attention;
    std::mt19937_64 random(TestSeed());
    std::normal_distribution<float> normal;
    for (const ResidentCache::Kind kind : {ResidentCache::Kind::kKey, ResidentCache::Kind::kValue}) {
      std::vector<float> values(size_t{kCapacity} * shape.num_kv_heads * shape.head_dim);
      for (float& value : values) value = normal(random);
      std::vector<std::byte>& stored = kind == ResidentCache::Kind::kKey ? k_ : v_;
      stored.resize(values.size() * DTypeBytes(dtype()));
      ConvertFromF32(dtype(), values.data(), values.size(), stored.data());
      cache_.Write(id_, 0, kind, {0, kCapacity}, stored);
    }
    q_.resize(kRows * shape.num_q_heads * shape.head_dim);
    for (float& value : q_) value = normal(random);
  }

  static DType dtype() { return GetParam(); }
  static ModelConfig Config() {
    ModelConfig config;
    config.attention = {6, 2, 24};  // groups of three; no multiple of a vector
    config.softmax_scale = 1 / std::sqrt(24.0);
    return config;
  }

  struct Result {
    std::vector<float> out, lse_ln;
  };
  // Rows of these ranges, with q's of their own from first_q on.
  Result Attend(const std::vector<std::array<SlotRange, kMaxSlotRanges>>& ranges, size_t first_q, int num_threads,
                HostFacet* facet = nullptr) {
    const AttentionShape& shape = config_.attention;
    ThreadPool pool(num_threads);
    ResidentAttention attention(config_, BestRowKernels(), kRows, cache_, pool);
    attention.PrepareWeights(kCapacity);
    std::vector<DecodeRow> rows;
    for (const auto& attend : ranges) rows.push_back({.resident = id_, .attend = attend});
    const std::vector<HostFacet*> facets(rows.size(), facet);
    Result result{std::vector<float>(rows.size() * shape.num_q_heads * shape.head_dim),
                  std::vector<float>(rows.size() * shape.num_q_heads)};
    attention.Attend({.layer = 0,
                      .rows = rows,
                      .facets = facets,
                      .sink_logits = sink_logits_,
                      .q = q_.data() + first_q * shape.num_q_heads * shape.head_dim,
                      .out = result.out.data(),
                      .lse_ln = result.lse_ln.data()});
    return result;
  }

  ReferencePartial Reference(const std::array<SlotRange, kMaxSlotRanges>& ranges, size_t q_idx) const {
    const AttentionShape& shape = config_.attention;
    const size_t q_dim = size_t{shape.num_q_heads} * shape.head_dim;
    const size_t token_bytes = size_t{shape.num_kv_heads} * shape.head_dim * DTypeBytes(dtype());
    std::vector<std::byte> k, v;
    for (const SlotRange& range : ranges) {
      const auto begin = static_cast<ptrdiff_t>(range.begin * token_bytes);
      const auto end = static_cast<ptrdiff_t>(range.end * token_bytes);
      k.insert(k.end(), k_.begin() + begin, k_.begin() + end);
      v.insert(v.end(), v_.begin() + begin, v_.begin() + end);
    }
    return ReferenceAttention({.shape = shape,
                               .softmax_scale = config_.softmax_scale,
                               .soft_cap = config_.attention_soft_cap,
                               .sink_logits = sink_logits_,
                               .q = std::span(q_).subspan(q_idx * q_dim, q_dim),
                               .k = k,
                               .v = v,
                               .k_dtype = dtype(),
                               .v_dtype = dtype()});
  }

  void ExpectReference();

  static constexpr size_t kRows = 4;
  ModelConfig config_ = Config();
  std::vector<float> sink_logits_;  // [num_q_heads], or none
  ResidentCache cache_;
  const ResidentId id_;
  std::vector<std::byte> k_, v_;  // canonical
  std::vector<float> q_;
};

// One token; a tile, one more and one less; ranges of their own tiles; more than one piece; more tiles than pieces.
const std::vector<std::array<SlotRange, kMaxSlotRanges>>& Contexts() {
  static const std::vector<std::array<SlotRange, kMaxSlotRanges>> contexts = {
      {SlotRange{0, 1}},
      {SlotRange{5, 516}},
      {SlotRange{5, 517}},
      {SlotRange{5, 518}},
      {SlotRange{0, 4}, SlotRange{100, 163}, SlotRange{64, 65}},
      {SlotRange{0, 7}, SlotRange{1000, 2900}, SlotRange{300, 811}},
      {SlotRange{0, kCapacity}},
      {},
  };
  return contexts;
}

void ResidentAttentionTest::ExpectReference() {
  for (const auto& ranges : Contexts()) {
    const Result result = Attend({ranges}, 1, 2);
    const ReferencePartial exact = Reference(ranges, 1);
    for (size_t i = 0; i < exact.lse_ln.size(); ++i) {
      if (std::isinf(exact.lse_ln[i])) {
        EXPECT_EQ(result.lse_ln[i], exact.lse_ln[i]);
      } else {
        EXPECT_NEAR(result.lse_ln[i], exact.lse_ln[i], 1e-5);
      }
    }
    for (size_t i = 0; i < exact.out.size(); ++i) EXPECT_NEAR(result.out[i], exact.out[i], 2e-5);
  }
}

TEST_P(ResidentAttentionTest, AgreesWithTheReference) { ExpectReference(); }

// Scores have a deviation of 1: the cap bends them, and the sinks weigh as much as all tokens of some contexts.
TEST_P(ResidentAttentionTest, CapsAndSinksAgreeWithTheReference) {
  config_.attention_soft_cap = 1.5;
  ExpectReference();
  sink_logits_ = {-3, 0, 1, 4, 9, 0.5f};
  ExpectReference();
  config_.attention_soft_cap = 0;
  ExpectReference();
}

TEST_P(ResidentAttentionTest, ARowDependsNeitherOnItsBatchNorOnTheThreads) {
  for (const auto& ranges : Contexts()) {
    const Result batch = Attend({Contexts()[6], Contexts()[5], ranges, Contexts()[4]}, 0, 3);
    const Result alone = Attend({ranges}, 2, 1);
    EXPECT_EQ(std::memcmp(alone.out.data(), batch.out.data() + 2 * alone.out.size(), alone.out.size() * 4), 0);
    EXPECT_EQ(std::memcmp(alone.lse_ln.data(), batch.lse_ln.data() + 2 * alone.lse_ln.size(), alone.lse_ln.size() * 4),
              0);
  }
}

TEST_P(ResidentAttentionTest, WeightsAddUpAndWantingThemChangesNoBit) {
  for (const auto& ranges : Contexts()) {
    WeightsFacet facet(config_.attention);
    const Result with = Attend({ranges}, 1, 2, &facet);
    const Result without = Attend({ranges}, 1, 2);
    EXPECT_EQ(with.out, without.out);
    EXPECT_EQ(with.lse_ln, without.lse_ln);
    size_t tokens = 0;
    for (const SlotRange& range : ranges) tokens += range.end - range.begin;
    const size_t head_dim = config_.attention.head_dim;
    for (size_t head = 0; head < facet.weights.size(); ++head) {
      ASSERT_EQ(facet.weights[head].size(), tokens);
      if (tokens == 0) continue;
      // The weights are those that make `out` of the values.
      std::vector<double> out(head_dim);
      double sum = 0;
      size_t i = 0;
      for (const SlotRange& range : ranges) {
        for (uint32_t slot = range.begin; slot < range.end; ++slot, ++i) {
          std::vector<float> v(head_dim);
          const size_t vector = slot * size_t{config_.attention.num_kv_heads} + head / config_.attention.group_size();
          ConvertToF32(dtype(), v_.data() + vector * head_dim * DTypeBytes(dtype()), head_dim, v.data());
          for (size_t d = 0; d < head_dim; ++d) out[d] += static_cast<double>(facet.weights[head][i]) * v[d];
          sum += facet.weights[head][i];
        }
      }
      EXPECT_NEAR(sum, 1.0, 1e-5);
      for (size_t d = 0; d < head_dim; ++d) EXPECT_NEAR(with.out[head * head_dim + d], out[d], 2e-5);
    }
  }
}

TEST_P(ResidentAttentionTest, SinksTakeTheirShareOfTheWeights) {
  sink_logits_ = {-3, 0, 1, 4, 9, 0.5f};
  WeightsFacet facet(config_.attention);
  const Result result = Attend({Contexts()[5]}, 1, 2, &facet);
  for (size_t head = 0; head < facet.weights.size(); ++head) {
    double sum = 0;
    for (const float weight : facet.weights[head]) sum += double{weight};
    EXPECT_NEAR(sum, 1 - std::exp(double{sink_logits_[head]} - result.lse_ln[head]), 1e-5);
  }
}

INSTANTIATE_TEST_SUITE_P(All, ResidentAttentionTest, ::testing::Values(DType::kF32, DType::kBf16, DType::kF16),
                         [](const auto& info) { return std::string(DTypeName(info.param)); });

}  // namespace
}  // namespace tributary

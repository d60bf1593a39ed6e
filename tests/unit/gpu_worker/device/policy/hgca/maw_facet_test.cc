// The moving average of attention weights that HGCA's facet keeps on each device, against policy/hgca/maw.h with
// weights in f64: rings that wrap, groups of query heads, batches with and without a MAW.
#include "gpu_worker/device/policy/hgca/maw_facet.h"

#include <cmath>
#include <map>
#include <random>

#include "gpu_worker/sequence/window_cache.h"
#include "gtest/gtest.h"
#include "policy/hgca/maw.h"
#include "policy/policy.h"
#include "tests/testutil/device_driver.h"
#include "tests/testutil/hgca_policy.h"
#include "tests/testutil/random_model.h"
#include "tests/testutil/test_devices.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr uint32_t kLayers = 2;
constexpr uint32_t kMaxContext = 400;

// One sequence: its slots, and what its MAW should be, by layer, KV head and token.
struct Tracked {
  WindowLayout layout;
  WindowCache cache;
  ResidentId resident;
  DType dtype = DType::kF32;
  std::optional<MawParams> maw;
  std::vector<std::vector<std::map<uint64_t, float>>> expected;  // [layer][kv_head]
  uint64_t remote_begin() const { return layout.sink_tokens; }
};

class DeviceMawTest : public ::testing::TestWithParam<std::tuple<DeviceKind, DType>> {
 protected:
  void SetUp() override {
    TRIBUTARY_SKIP_WITHOUT_DEVICE(std::get<0>(GetParam()));
    RandomModelOptions options;
    options.seed = seed_;
    options.num_layers = kLayers;
    options.num_kv_heads = RandomInt(random_, 1u, 2u);
    options.num_q_heads = options.num_kv_heads * RandomInt(random_, 1u, 12u);
    options.head_dim = 16u << RandomInt(random_, 0, 3);
    TempDir dir;
    WriteRandomModel(dir.path(), options);
    weights_ = *LoadModelWeights(dir.path());
    const DeviceLimits limits{
        .max_batch = 32, .max_partial_slots = 1, .resident_pool_bytes = 64 << 20, .max_prefill_tokens = kMaxContext};
    device_ = *MakeTestDevice(std::get<0>(GetParam()), weights_, limits);
  }
  const AttentionShape& shape() const { return weights_->config.attention; }
  uint32_t RandomToken() { return RandomInt(random_, 0u, 60u); }

  ResidentId Reserve(uint32_t capacity_tokens, DType dtype, std::optional<MawParams> maw) {
    const PolicyParams policy = HgcaPolicyWith(maw.value_or(MawParams{}));
    return *device_->ReserveResident(
        {.capacity_tokens = capacity_tokens, .kv_dtype = dtype, .policy = maw ? &policy : nullptr});
  }
  void ReadMaw(ResidentId id, SlotRange slots, std::span<float> maw) {
    auto* const reader = dynamic_cast<MawReader*>(device_->facet(id));
    TRIBUTARY_CHECK(reader != nullptr);
    reader->ReadMaw(slots, maw);
  }

  void ReleaseAll() {
    for (const Tracked& s : sequences_) device_->ReleaseResident(s.resident);
    sequences_.clear();
  }

  void Start(std::optional<MawParams> maw) {
    Tracked s;
    s.dtype = std::get<1>(GetParam());
    s.maw = maw;
    s.layout = {.sink_tokens = RandomInt(random_, 0u, 5u),
                .window_tokens = RandomInt(random_, 1u, 30u),
                .block_tokens = RandomInt(random_, 1u, 12u)};
    s.cache = WindowCache(s.layout, kMaxContext);
    const uint32_t capacity = s.cache.capacity_tokens();
    s.resident = Reserve(capacity, s.dtype, maw);
    s.expected.assign(kLayers, std::vector<std::map<uint64_t, float>>(shape().num_kv_heads));
    Prefill(s);
    sequences_.push_back(std::move(s));
  }

  void Prefill(Tracked& s) {
    std::vector<uint32_t> prompt(RandomInt(random_, 1u, 90u));
    for (uint32_t& token : prompt) token = RandomToken();
    s.cache.Prefilled(prompt.size());
    const auto prefill = device_->BeginPrefill(prompt, s.dtype).value();
    const std::vector<TokenRange> kept = {{0, std::min<uint64_t>(s.remote_begin(), prompt.size())},
                                          {s.cache.remote().end, prompt.size()}};
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      prefill->Project(layer, 0, prompt.size());
      prefill->Attend(layer, 0, prompt.size());
      for (const TokenRange tokens : kept) {
        if (tokens.begin >= tokens.end) continue;
        uint64_t begin = tokens.begin;
        for (const SlotRange slots : s.cache.SlotsOf(tokens)) {
          prefill->Keep(layer, s.resident, begin, slots);
          begin += slots.end - slots.begin;
        }
      }
    }
  }

  // Resident tokens in the order of the attended slots.
  static std::vector<uint64_t> Tokens(const Tracked& s) {
    std::vector<uint64_t> tokens;
    const TokenRange remote = s.cache.remote();
    for (uint64_t t = 0; t < s.cache.context_tokens(); ++t) {
      if (t < remote.begin || t >= remote.end) tokens.push_back(t);
    }
    return tokens;
  }
  static std::vector<uint32_t> Slots(const DecodeRow& row) {
    std::vector<uint32_t> slots;
    for (const SlotRange& range : row.attend) {
      for (uint32_t slot = range.begin; slot < range.end; ++slot) slots.push_back(slot);
    }
    return slots;
  }

  // Rows of up to max_tokens successive tokens of a sequence. All of them share one window: none leaves it meanwhile.
  std::vector<DecodeRow> RowsOf(Tracked& s, uint32_t max_tokens) {
    if (!s.cache.CanAppend()) s.cache.Release();
    std::vector<DecodeRow> rows;
    do {
      DecodeRow row{.token = RandomToken(), .pos = s.cache.context_tokens(), .resident = s.resident};
      row.append_slot = s.cache.Append();
      row.attend = s.cache.AttendRanges();
      row.step_tokens = 0;
      rows.push_back(row);
    } while (rows.size() < max_tokens && s.cache.CanAppend());
    rows.back().step_tokens = static_cast<uint32_t>(rows.size());
    return rows;
  }

  void Step(uint32_t max_tokens = 1) {
    std::vector<DecodeRow> rows;
    std::vector<size_t> last_rows;
    for (Tracked& s : sequences_) {
      const std::vector<DecodeRow> of_sequence = RowsOf(s, RandomInt(random_, 1u, max_tokens));
      rows.insert(rows.end(), of_sequence.begin(), of_sequence.end());
      last_rows.push_back(rows.size() - 1);
    }
    for (DecodeRow& row : rows) row.may_have_partials = may_have_partials_;
    std::vector<std::vector<float>> queries;
    const std::vector<uint32_t> no_slots(rows.size(), 0);
    device_->BeginStep(rows);
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      const std::span<const float> q = device_->AwaitQuery(layer);
      queries.emplace_back(q.begin(), q.end());
      device_->AttendResident(layer);
      device_->FinishLayer(layer, no_slots);
    }
    device_->EndStep();
    ASSERT_TRUE(device_->step_status().ok()) << device_->step_status();
    if (!may_have_partials_) return;  // there is no q to judge by
    for (size_t i = 0; i < sequences_.size(); ++i) {
      if (!sequences_[i].maw) continue;
      const size_t r = last_rows[i];
      for (uint32_t layer = 0; layer < kLayers; ++layer) {
        const size_t q_dim = size_t{shape().num_q_heads} * shape().head_dim;
        Expect(sequences_[i], rows[r], layer, std::span(queries[layer]).subspan(r * q_dim, q_dim));
      }
      Compare(sequences_[i], rows[r]);
    }
  }

  std::vector<float> Keys(const Tracked& s, uint32_t layer) {
    const size_t elements = size_t{s.cache.capacity_tokens()} * shape().num_kv_heads * shape().head_dim;
    std::vector<std::byte> k(elements * DTypeBytes(s.dtype)), v(k.size());
    const CopyTicket ticket =
        device_->ReadResident(s.resident, layer, {0, s.cache.capacity_tokens()}, {0, shape().num_kv_heads}, k, v);
    while (!device_->CopyDone(ticket)) {
    }
    std::vector<float> keys(elements);
    ConvertToF32(s.dtype, k.data(), elements, keys.data());
    return keys;
  }

  // One layer's weights in f64, into the expected averages.
  void Expect(Tracked& s, const DecodeRow& row, uint32_t layer, std::span<const float> q) {
    const std::vector<float> keys = Keys(s, layer);
    const std::vector<uint32_t> slots = Slots(row);
    const std::vector<uint64_t> tokens = Tokens(s);
    ASSERT_EQ(slots.size(), tokens.size());
    const uint32_t group = shape().group_size(), dim = shape().head_dim;
    for (uint32_t kv_head = 0; kv_head < shape().num_kv_heads; ++kv_head) {
      std::vector<float> weights;
      for (uint32_t head = kv_head * group; head < (kv_head + 1) * group; ++head) {
        std::vector<double> row_weights;
        double sum = 0;
        for (const uint32_t slot : slots) {
          const float* key = keys.data() + (size_t{slot} * shape().num_kv_heads + kv_head) * dim;
          double score = 0;
          for (uint32_t d = 0; d < dim; ++d) score += double{q[head * dim + d]} * key[d];
          row_weights.push_back(std::exp(score * weights_->config.softmax_scale));
          sum += row_weights.back();
        }
        for (const double weight : row_weights) weights.push_back(static_cast<float>(weight / sum));
      }
      std::vector<float> a(slots.size());
      AggregateGroup(s.maw->group_aggregate, weights, group, a);
      std::map<uint64_t, float>& expected = s.expected[layer][kv_head];
      for (size_t i = 0; i < tokens.size(); ++i) {
        const auto [it, is_new] = expected.emplace(tokens[i], a[i]);
        if (!is_new) UpdateMaw(s.maw->alpha, {&a[i], 1}, 1, {&it->second, 1});
      }
    }
  }

  void Compare(const Tracked& s, const DecodeRow& row) {
    const uint32_t capacity = s.cache.capacity_tokens();
    std::vector<float> maw(size_t{kLayers} * shape().num_kv_heads * capacity);
    ReadMaw(s.resident, {0, capacity}, maw);
    const std::vector<uint32_t> slots = Slots(row);
    const std::vector<uint64_t> tokens = Tokens(s);
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      for (uint32_t kv_head = 0; kv_head < shape().num_kv_heads; ++kv_head) {
        const float* got = maw.data() + (size_t{layer} * shape().num_kv_heads + kv_head) * capacity;
        for (size_t i = 0; i < tokens.size(); ++i) {
          const float expected = s.expected[layer][kv_head].at(tokens[i]);
          ASSERT_NEAR(got[slots[i]], expected, 2e-6 + 3e-4 * expected)
              << "token " << tokens[i] << " of " << s.cache.context_tokens() << ", layer " << layer << ", KV head "
              << kv_head;
        }
      }
    }
    // Part of the slots is the same part of each head.
    const SlotRange part{capacity / 3, capacity / 2 + 1};
    std::vector<float> of_part(size_t{kLayers} * shape().num_kv_heads * (part.end - part.begin));
    ReadMaw(s.resident, part, of_part);
    const size_t last = of_part.size() - 1;
    const float whole = maw[maw.size() - capacity + part.end - 1];
    EXPECT_TRUE(of_part[last] == whole || (std::isnan(of_part[last]) && std::isnan(whole)));
  }

  // Of the resident tokens, in their order: [layer][KV head][token].
  std::vector<float> Averages(const Tracked& s) {
    const uint32_t capacity = s.cache.capacity_tokens();
    std::vector<float> maw(size_t{kLayers} * shape().num_kv_heads * capacity), averages;
    ReadMaw(s.resident, {0, capacity}, maw);
    const DecodeRow row{.attend = s.cache.AttendRanges()};
    for (size_t head = 0; head < size_t{kLayers} * shape().num_kv_heads; ++head) {
      for (const uint32_t slot : Slots(row)) averages.push_back(maw[head * capacity + slot]);
    }
    return averages;
  }

  const uint64_t seed_ = TestSeed();
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
  std::shared_ptr<const ModelWeights> weights_;
  std::unique_ptr<Device> device_;
  bool may_have_partials_ = true;  // a device may do without an exchange if no row has
  std::vector<Tracked> sequences_;
};

TEST_P(DeviceMawTest, FollowsTheOracleOverWrappingRings) {
  const auto share = [&] { return static_cast<float>(RandomInt(random_, 0, 8)) / 8.0f; };
  Start(MawParams{share(), GroupAggregate::kMean});
  Start(std::nullopt);
  Start(MawParams{share(), GroupAggregate::kMax});
  for (int step = 0; step < 60; ++step) {
    Step();
    if (HasFatalFailure()) return;
  }
}

// Appended tokens: the last of a step's rows averages for all.
TEST_P(DeviceMawTest, SeveralRowsOfASequenceAreAveragedOnce) {
  Start(MawParams{0.5f, GroupAggregate::kMean});
  Start(std::nullopt);
  Start(MawParams{0.25f, GroupAggregate::kMax});
  for (int step = 0; step < 30; ++step) {
    Step(/*max_tokens=*/4);
    if (HasFatalFailure()) return;
  }
}

// Before a sequence's first remote token, steps need no exchange with the host: the averages are the same bits. On one
// device: another one may find other products to be the fastest for many rows, whose sums have other bits.
TEST_P(DeviceMawTest, WithAndWithoutExchangeTheSameBits) {
  std::vector<std::vector<float>> maws[2];
  for (const bool exchange : {false, true}) {
    ReleaseAll();
    random_.seed(seed_);
    may_have_partials_ = exchange;
    Start(MawParams{0.5f, GroupAggregate::kMean});
    Start(std::nullopt);
    Start(MawParams{0.25f, GroupAggregate::kMax});
    for (int step = 0; step < 12; ++step) {
      Step(/*max_tokens=*/8);
      if (HasFatalFailure()) return;
      for (const Tracked& s : sequences_) {
        if (s.maw) maws[exchange].push_back(Averages(s));
      }
    }
  }
  ASSERT_FALSE(maws[0].empty());
  EXPECT_EQ(maws[0], maws[1]);
}

// What a sequence leaves behind in the pool is nothing to the next one.
TEST_P(DeviceMawTest, ANewSequenceStartsAnew) {
  for (int round = 0; round < 3; ++round) {
    Start(MawParams{0.25f, GroupAggregate::kMean});
    for (int step = 0; step < 3; ++step) Step();
    if (HasFatalFailure()) return;
    ReleaseAll();
  }
}

// Looking at the weights changes nothing of what is computed.
TEST_P(DeviceMawTest, LogitsAreTheSameBits) {
  const std::vector<uint32_t> prompt = {1, 2, 3, 4, 5, 6, 7, 8, 9};
  std::vector<std::vector<float>> logits;
  for (const bool with_maw : {false, true}) {
    const ResidentId id = Reserve(20, std::get<1>(GetParam()), with_maw ? std::optional(MawParams{}) : std::nullopt);
    const auto prefill = device_->BeginPrefill(prompt, std::get<1>(GetParam())).value();
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      prefill->Project(layer, 0, prompt.size());
      prefill->Attend(layer, 0, prompt.size());
      prefill->Keep(layer, id, 0, {0, 9});
    }
    const DecodeRow row = ContiguousRow(id, 10, 9);
    logits.push_back(DecodeResident(*device_, kLayers, {&row, 1}));
  }
  EXPECT_EQ(logits[0], logits[1]);
}

TEST(MawPartsTest, AreWhatTheRulesPromise) {
  const PolicyParams policy = HgcaPolicyWith({});
  const FacetSpec spec{.shape = {.num_q_heads = 6, .num_kv_heads = 3, .head_dim = 8},
                       .num_layers = 5,
                       .capacity_tokens = 77,
                       .max_context_tokens = 1000,
                       .kv_dtype = DType::kBf16,
                       .policy = &policy};
  uint64_t bytes = 0;
  for (const PolicyBytes& part : MawParts(spec)) bytes += part.bytes;
  EXPECT_EQ(bytes, MakePolicy(policy)->FacetBytes({5, 3, 6, 77, 1000}));
}

std::string NameOf(const ::testing::TestParamInfo<std::tuple<DeviceKind, DType>>& info) {
  return DeviceName(std::get<0>(info.param)) + "_" + std::string(DTypeName(std::get<1>(info.param)));
}

INSTANTIATE_TEST_SUITE_P(Devices, DeviceMawTest,
                         ::testing::Combine(::testing::Values(DeviceKind::kHost, DeviceKind::kCuda),
                                            ::testing::Values(DType::kF32, DType::kBf16, DType::kF16)),
                         NameOf);

}  // namespace
}  // namespace tributary

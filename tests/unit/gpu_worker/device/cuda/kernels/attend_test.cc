// Attend(), UpdateMaw() and MergePartials() against attention in f64, on ragged batches.
#include "gpu_worker/device/cuda/kernels/attend.h"

#include <algorithm>
#include <map>

#include "gpu_worker/device/cuda/kernels/merge.h"
#include "policy/hgca/maw.h"
#include "tests/unit/gpu_worker/device/cuda/kernels/kernel_test_util.h"

namespace tributary::gpu {
namespace {

constexpr uint32_t kLayers = 2;
constexpr uint32_t kMaxSlots = 5;

struct Case {
  KvGeometry geometry;
  DType dtype;
  std::vector<uint32_t> row_tokens;  // 0: nothing to attend over
  SplitRule rule;
};

// A batch with its KV on the device; slots that no row attends over hold NaN.
struct Batch {
  Batch(const Case& c, std::mt19937_64& random) : c(c), q(RandomQuery(c, random)) {
    for (const uint32_t tokens : c.row_tokens) AddRow(tokens, random);
    for (size_t r = 0; r < rows.size(); r += 2) AddMaw(r, random);
    device_rows = DeviceArray<DecodeRowDesc>(rows);
    q_device = DeviceArray<float>(q);
  }

  static std::vector<float> RandomQuery(const Case& c, std::mt19937_64& random) {
    return RandomNormal(random, c.row_tokens.size() * c.geometry.num_q_heads * c.geometry.head_dim, 1.5f);
  }

  void AddRow(uint32_t tokens, std::mt19937_64& random) {
    const uint32_t capacity = tokens + RandomInt(random, 1u, 40u);
    DecodeRowDesc row;
    row.capacity_tokens = capacity;
    row.kv_dtype = c.dtype;
    // Sinks at the begin, then the ring from somewhere, wrapped once; any piece may be empty.
    const uint32_t sinks = RandomInt(random, 0u, std::min(tokens, 20u));
    const uint32_t tail = RandomInt(random, 0u, tokens - sinks);
    row.attend[0] = {0, sinks};
    row.attend[1] = {capacity - tail, capacity};
    row.attend[2] = {sinks, tokens - tail};
    const size_t head_elements = size_t{capacity} * c.geometry.head_dim;
    std::vector<float> values(kLayers * 2 * c.geometry.num_kv_heads * head_elements);
    for (size_t begin = 0; begin < values.size(); begin += head_elements) {
      std::fill_n(values.begin() + begin, head_elements, std::nanf(""));
      for (const DecodeRowDesc::Range& range : row.attend) {
        const size_t count = size_t{range.end - range.begin} * c.geometry.head_dim;
        const std::vector<float> fresh = RandomNormal(random, count);
        std::copy(fresh.begin(), fresh.end(), values.begin() + begin + size_t{range.begin} * c.geometry.head_dim);
      }
    }
    regions.emplace_back(c.dtype, values);
    row.region = static_cast<std::byte*>(regions.back().get());
    rows.push_back(row);
  }

  // Averages so far, of which some slots have none yet, NaN; scores as they were left, NaN.
  void AddMaw(size_t r, std::mt19937_64& random) {
    DecodeRowDesc& row = rows[r];
    const size_t heads = size_t{kLayers} * c.geometry.num_kv_heads;
    maw_before[r].resize(heads * row.capacity_tokens);
    for (float& value : maw_before[r]) {
      value = RandomInt(random, 0, 4) == 0 ? std::nanf("") : 1.0f / static_cast<float>(RandomInt(random, 1, 100));
    }
    maw.emplace(r, maw_before[r]);
    scores.emplace(r, size_t{c.geometry.num_q_heads} * row.capacity_tokens);
    row.maw = maw.at(r).get();
    row.scores = scores.at(r).get();
    row.maw_params = {0.25f * static_cast<float>(RandomInt(random, 0, 4)),
                      RandomInt(random, 0, 1) == 0 ? GroupAggregate::kMax : GroupAggregate::kMean};
    row.append_slot = row.attend[1].end - 1;  // one that is attended over, if there are any
    uint32_t num_tokens = 0;
    for (const DecodeRowDesc::Range& range : row.attend) num_tokens += range.end - range.begin;
    row.maw_new_tokens = RandomInt(random, 0u, std::min(num_tokens, 20u));
  }

  const Case c;
  std::vector<float> q;
  std::map<size_t, std::vector<float>> maw_before;
  mutable std::map<size_t, DeviceArray<float>> maw, scores;
  std::vector<TypedArray> regions;
  std::vector<DecodeRowDesc> rows;
  DeviceArray<DecodeRowDesc> device_rows{1};
  DeviceArray<float> q_device{1};
};

struct Expected {
  std::vector<double> out;  // [head_dim]
  double lse_ln = -INFINITY;
  std::vector<double> scores;  // ln
  double max_value = 0;
};

Expected Reference(const Batch& batch, uint32_t r, uint32_t head, uint32_t layer, double scale) {
  const KvGeometry& g = batch.c.geometry;
  const DecodeRowDesc& row = batch.rows[r];
  const std::vector<float>& kv = batch.regions[r].values;
  const uint32_t kv_head = head / (g.num_q_heads / g.num_kv_heads);
  const size_t head_elements = size_t{row.capacity_tokens} * g.head_dim;
  const float* k = kv.data() + (size_t{layer} * 2 * g.num_kv_heads + kv_head) * head_elements;
  const float* v = k + g.num_kv_heads * head_elements;
  const float* q = batch.q.data() + (size_t{r} * g.num_q_heads + head) * g.head_dim;
  Expected expected;
  expected.out.resize(g.head_dim);
  std::vector<size_t> slots;
  for (const DecodeRowDesc::Range& range : row.attend) {
    for (uint32_t slot = range.begin; slot < range.end; ++slot) slots.push_back(slot);
  }
  double max = -INFINITY;
  for (const size_t slot : slots) {
    double score = 0;
    for (uint32_t d = 0; d < g.head_dim; ++d) score += double{q[d]} * k[slot * g.head_dim + d];
    expected.scores.push_back(score * scale);
    max = std::max(max, expected.scores.back());
  }
  double sum = 0;
  for (size_t i = 0; i < slots.size(); ++i) {
    const double weight = std::exp(expected.scores[i] - max);
    sum += weight;
    for (uint32_t d = 0; d < g.head_dim; ++d) {
      const double value = v[slots[i] * g.head_dim + d];
      expected.out[d] += weight * value;
      expected.max_value = std::max(expected.max_value, std::abs(value));
    }
  }
  if (slots.empty()) return expected;
  for (double& x : expected.out) x /= sum;
  expected.lse_ln = max + std::log(sum);
  return expected;
}

// Remote partials, some of them empty with garbage in their out.
struct Remote {
  Remote(const Batch& batch, std::mt19937_64& random) {
    const KvGeometry& g = batch.c.geometry;
    const size_t heads = batch.rows.size() * kMaxSlots * g.num_q_heads;
    out = RandomNormal(random, heads * g.head_dim);
    lse_ln = RandomNormal(random, heads, 4.0f);
    for (size_t i = 0; i < heads; ++i) {
      if (RandomInt(random, 0, 3) != 0) continue;
      lse_ln[i] = -INFINITY;
      std::fill_n(out.begin() + i * g.head_dim, g.head_dim, std::nanf(""));
    }
    for (size_t r = 0; r < batch.rows.size(); ++r) {
      num_slots.push_back(RandomInt(random, 0u, kMaxSlots));
    }
  }
  std::vector<float> out, lse_ln;
  std::vector<uint32_t> num_slots;
};

// Merges in f64.
void MergeReference(const Remote& remote, const KvGeometry& g, uint32_t r, uint32_t head, Expected& expected) {
  const uint32_t n = remote.num_slots[r];
  double max = expected.lse_ln;
  const auto slot_head = [&](uint32_t s) { return (size_t{r} * kMaxSlots + s) * g.num_q_heads + head; };
  for (uint32_t s = 0; s < n; ++s) max = std::max(max, double{remote.lse_ln[slot_head(s)]});
  if (max == -INFINITY) return;
  double sum = std::exp(expected.lse_ln - max);
  for (double& x : expected.out) x *= sum;
  for (uint32_t s = 0; s < n; ++s) {
    const size_t idx = slot_head(s);
    if (remote.lse_ln[idx] == -INFINITY) continue;
    const double weight = std::exp(remote.lse_ln[idx] - max);
    sum += weight;
    for (uint32_t d = 0; d < g.head_dim; ++d) {
      const double value = remote.out[idx * g.head_dim + d];
      expected.out[d] += weight * value;
      expected.max_value = std::max(expected.max_value, std::abs(value));
    }
  }
  for (double& x : expected.out) x /= sum;
  expected.lse_ln = max + std::log(sum);
}

struct Result {
  std::vector<float> out, resident_lse_ln, merged_lse_ln;
};

class AttendTest : public KernelTest {
 protected:
  // REQUIRES: remote, if there is one, outlives the call.
  Result Run(const Batch& batch, const Remote* remote, uint32_t layer, float scale, DType out_dtype) {
    const Case& c = batch.c;
    const auto num_rows = static_cast<uint32_t>(batch.rows.size());
    const size_t heads = size_t{num_rows} * c.geometry.num_q_heads;
    DeviceArray<std::byte> memory(AttendWorkspaceBytes(num_rows, c.geometry, c.rule));
    const AttendWorkspace workspace = MakeAttendWorkspace(memory.get(), num_rows, c.geometry, c.rule);
    DeviceArray<float> resident_lse(heads), merged_lse(heads);
    TypedArray out(out_dtype, heads * c.geometry.head_dim);
    ExpectCudaOk(Attend({.rows = batch.device_rows.get(),
                         .num_rows = num_rows,
                         .kv_dtype = c.dtype,
                         .layer = layer,
                         .geometry = c.geometry,
                         .softmax_scale = scale,
                         .q = batch.q_device.get(),
                         .rule = c.rule,
                         .workspace = workspace,
                         .keep_scores = true},
                        launch_));
    ExpectCudaOk(UpdateMaw({.rows = batch.device_rows.get(),
                            .num_rows = num_rows,
                            .layer = layer,
                            .geometry = c.geometry,
                            .rule = c.rule,
                            .workspace = workspace},
                           launch_));
    MergeArgs merge{.rows = batch.device_rows.get(),
                    .num_rows = num_rows,
                    .geometry = c.geometry,
                    .rule = c.rule,
                    .workspace = workspace,
                    .out = out.get(),
                    .out_dtype = out_dtype,
                    .resident_lse_ln = resident_lse.get(),
                    .merged_lse_ln = merged_lse.get()};
    DeviceArray<uint32_t> num_slots(remote == nullptr ? std::vector<uint32_t>{0} : remote->num_slots);
    DeviceArray<float> slot_out(remote == nullptr ? std::vector<float>{0} : remote->out);
    DeviceArray<float> slot_lse(remote == nullptr ? std::vector<float>{0} : remote->lse_ln);
    if (remote != nullptr) {
      merge.num_slots = num_slots.get();
      merge.slot_out = slot_out.get();
      merge.slot_lse_ln = slot_lse.get();
      merge.max_slots = kMaxSlots;
    }
    ExpectCudaOk(MergePartials(merge, launch_));
    return {out.Fetch(), resident_lse.Fetch(), merged_lse.Fetch()};
  }

  // One KV head of a row with a MAW: what was attended over has moved, nothing else has.
  void CheckMaw(const Batch& batch, uint32_t r, uint32_t layer, uint32_t kv_head, const std::vector<Expected>& group) {
    const DecodeRowDesc& row = batch.rows[r];
    const size_t begin = (size_t{layer} * batch.c.geometry.num_kv_heads + kv_head) * row.capacity_tokens;
    std::vector<float> expected = batch.maw_before.at(r);
    size_t t = 0;
    for (const DecodeRowDesc::Range& range : row.attend) {
      for (uint32_t slot = range.begin; slot < range.end; ++slot, ++t) {
        std::vector<float> weights;
        for (const Expected& e : group) {
          weights.push_back(static_cast<float>(std::exp(e.scores[t] - e.lse_ln)));
        }
        float a = 0;
        AggregateGroup(row.maw_params.group_aggregate, weights, static_cast<uint32_t>(group.size()), {&a, 1});
        const bool is_new = slot == row.append_slot || t + row.maw_new_tokens >= group[0].scores.size();
        const size_t is_known = is_new ? 0 : 1;
        tributary::UpdateMaw(row.maw_params.alpha, {&a, 1}, is_known, {&expected[begin + slot], 1});
      }
    }
    const std::vector<float>& actual = batch.maw.at(r).Fetch();
    for (size_t i = begin; i < begin + row.capacity_tokens; ++i) {
      if (std::isnan(expected[i])) {
        ASSERT_TRUE(std::isnan(actual[i])) << "slot " << i - begin;
      } else {
        ASSERT_NEAR(actual[i], expected[i], 1e-6 + 2e-4 * expected[i]) << "slot " << i - begin;
      }
    }
  }

  void Check(const Case& c, bool with_remote, DType out_dtype) {
    SCOPED_TRACE(testing::Message() << "head_dim " << c.geometry.head_dim << " q heads " << c.geometry.num_q_heads
                                    << " kv heads " << c.geometry.num_kv_heads << " dtype " << DTypeName(c.dtype));
    const Batch batch(c, random_);
    const Remote remote(batch, random_);
    const uint32_t layer = RandomInt(random_, 0u, kLayers - 1);
    const float scale = 1.0f / std::sqrt(static_cast<float>(c.geometry.head_dim));
    const Result result = Run(batch, with_remote ? &remote : nullptr, layer, scale, out_dtype);
    const uint32_t group = c.geometry.num_q_heads / c.geometry.num_kv_heads;
    for (uint32_t r = 0; r < batch.rows.size(); ++r) {
      std::vector<Expected> of_group;
      for (uint32_t head = 0; head < c.geometry.num_q_heads; ++head) {
        SCOPED_TRACE(testing::Message() << "row " << r << " (" << c.row_tokens[r] << " tokens), head " << head);
        Expected expected = Reference(batch, r, head, layer, scale);
        const size_t idx = size_t{r} * c.geometry.num_q_heads + head;
        CheckLse(result.resident_lse_ln[idx], expected.lse_ln);
        of_group.push_back(expected);
        if (of_group.size() == group) {
          if (batch.rows[r].maw != nullptr) CheckMaw(batch, r, layer, head / group, of_group);
          of_group.clear();
        }
        if (with_remote) MergeReference(remote, c.geometry, r, head, expected);
        CheckLse(result.merged_lse_ln[idx], expected.lse_ln);
        for (uint32_t d = 0; d < c.geometry.head_dim; ++d) {
          const double tolerance = 3e-5 * expected.max_value + RoundingOf(out_dtype) * std::abs(expected.out[d]);
          ASSERT_NEAR(result.out[idx * c.geometry.head_dim + d], expected.out[d], tolerance) << "element " << d;
        }
      }
    }
  }

  static void CheckLse(float actual, double expected) {
    if (expected == -INFINITY) {
      ASSERT_EQ(actual, -INFINITY);
    } else {
      ASSERT_NEAR(actual, expected, 5e-5 + 2e-6 * std::abs(expected));
    }
  }
};

TEST_F(AttendTest, EveryHeadDimAndDType) {
  for (const uint32_t head_dim : {8u, 16u, 32u, 64u, 80u, 96u, 128u, 256u}) {
    for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
      if (TestsAreSmall() && head_dim != 16 && head_dim != 128) continue;
      Case c{{4, 2, head_dim}, dtype, {0, 1, 15, 16, 17, 200, 333}, {64, 4}};
      if (TestsAreSmall()) c.row_tokens = {0, 1, 37, 70};
      Check(c, /*with_remote=*/true, DType::kF32);
    }
  }
}

TEST_F(AttendTest, EveryGroupSize) {
  for (const uint32_t group : {1u, 2u, 3u, 4u, 5u, 7u, 8u, 12u, 16u, 20u}) {
    for (const DType dtype : {DType::kF32, DType::kBf16}) {
      if (TestsAreSmall() && group != 5 && group != 12) continue;
      Check({{2 * group, 2, 64}, dtype, {129, 30}, {32, 8}}, /*with_remote=*/group % 2 == 0, DType::kBf16);
    }
  }
}

TEST_F(AttendTest, ManyRowsAndSplits) {
  Case c{{8, 2, 128}, DType::kBf16, {}, {16, 40}};
  const uint32_t num_rows = TestsAreSmall() ? 3 : 70;
  for (uint32_t r = 0; r < num_rows; ++r) {
    c.row_tokens.push_back(RandomInt(random_, 0u, TestsAreSmall() ? 60u : 700u));
  }
  Check(c, /*with_remote=*/true, DType::kF16);
}

// More splits than the workspace has room for: they grow instead.
TEST_F(AttendTest, SplitsGrowBeyondTheirLeast) {
  Check({{4, 4, 64}, DType::kBf16, {500, 65, 64}, {16, 4}}, /*with_remote=*/false, DType::kF32);
  Check({{4, 1, 8}, DType::kF32, {100, 3}, {16, 1}}, /*with_remote=*/false, DType::kF32);
}

TEST_F(AttendTest, LargeScoresStayFinite) {
  const Case c{{4, 1, 128}, DType::kBf16, {100}, {32, 8}};
  Batch batch(c, random_);
  for (float& x : batch.q) x *= 50.0f;
  batch.q_device.Put(batch.q);
  const Result result = Run(batch, nullptr, 0, 1.0f, DType::kF32);
  for (uint32_t head = 0; head < 4; ++head) {
    const Expected expected = Reference(batch, 0, head, 0, 1.0);
    EXPECT_NEAR(result.resident_lse_ln[head], expected.lse_ln, 1e-5 * std::abs(expected.lse_ln));
    EXPECT_TRUE(std::isfinite(result.out[size_t{head} * 128]));
  }
}

// A row's result does not depend on the other rows, nor on their KV dtype or padding.
TEST_F(AttendTest, RowsDoNotSeeEachOther) {
  const Case c{{8, 2, 128}, DType::kBf16, {300, 40, 77}, {64, 8}};
  Batch batch(c, random_);
  const Result all = Run(batch, nullptr, 1, 0.1f, DType::kF32);
  std::vector<DecodeRowDesc> only = batch.rows;
  only[0].region = nullptr;
  only[2].kv_dtype = DType::kF16;
  batch.device_rows.Put(only);
  const Result alone = Run(batch, nullptr, 1, 0.1f, DType::kF32);
  const size_t row = size_t{8} * 128;
  EXPECT_EQ(std::memcmp(all.out.data() + row, alone.out.data() + row, row * sizeof(float)), 0);
  EXPECT_EQ(alone.resident_lse_ln[0], -INFINITY);
  EXPECT_EQ(alone.out[0], 0.0f);
}

// The MAW of more tokens than its blocks of threads take at once.
TEST_F(AttendTest, LongRows) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    Check({{4, 2, 64}, dtype, {5000, 3, 2049, 1, 2048, 2, 4097}, {128, 64}}, false, DType::kF32);
    Check({{16, 1, 128}, dtype, {2600, 3, 257, 1, 256}, {256, 64}}, true, DType::kF32);
  }
}

TEST_F(AttendTest, RefusesWhatItDoesNotServe) {
  AttendArgs args{.num_rows = 1, .kv_dtype = DType::kBf16, .geometry = {4, 3, 64}, .rule = {64, 1}};
  EXPECT_EQ(Attend(args, launch_), cudaErrorInvalidValue);
  args.geometry = {4, 2, 512};
  EXPECT_EQ(Attend(args, launch_), cudaErrorInvalidValue);
  args.geometry = {4, 2, 64};
  EXPECT_EQ(UpdateMaw({.num_rows = 1, .geometry = {4, 3, 64}, .rule = {64, 1}}, launch_), cudaErrorInvalidValue);
  args.rule.split_tokens = 20;
  EXPECT_EQ(Attend(args, launch_), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace tributary::gpu

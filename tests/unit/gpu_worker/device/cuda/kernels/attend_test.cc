// Attend() and MergePartials() against attention in f64, on ragged batches.
#include "gpu_worker/device/cuda/kernels/attend.h"

#include <algorithm>

#include "gpu_worker/device/cuda/kernels/merge.h"
#include "tests/unit/gpu_worker/device/cuda/kernels/attend_batch.h"
#include "tests/unit/gpu_worker/device/cuda/kernels/kernel_test_util.h"

namespace tributary::gpu {
namespace {

constexpr uint32_t kMaxSlots = 5;

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
  std::vector<float> out, resident_lse_ln, merged_lse_ln, resident_out;
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
    DeviceArray<float> resident_lse(std::vector<float>(heads, kUntouched)), merged_lse(heads);
    DeviceArray<float> resident_out(std::vector<float>(heads * c.geometry.head_dim, kUntouched));
    TypedArray out(out_dtype, heads * c.geometry.head_dim);
    ExpectCudaOk(Attend({.rows = batch.device_rows.get(),
                         .num_rows = num_rows,
                         .kv_dtype = c.dtype,
                         .layer = layer,
                         .geometry = c.geometry,
                         .softmax_scale = scale,
                         .soft_cap = c.soft_cap,
                         .q = batch.q_device.get(),
                         .rule = c.rule,
                         .workspace = workspace,
                         .keep_scores = true},
                        launch_));
    DeviceArray<float> sinks(sink_logits_.empty() ? std::vector<float>{0} : sink_logits_);
    MergeArgs merge{.rows = batch.device_rows.get(),
                    .num_rows = num_rows,
                    .geometry = c.geometry,
                    .rule = c.rule,
                    .workspace = workspace,
                    .sink_logits = sink_logits_.empty() ? nullptr : sinks.get(),
                    .out = out.get(),
                    .out_dtype = out_dtype,
                    .resident_out = resident_out.get(),
                    .resident_lse_ln = resident_lse.get(),
                    .resident_of_all_rows = resident_of_all_rows_,
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
    return {out.Fetch(), resident_lse.Fetch(), merged_lse.Fetch(), resident_out.Fetch()};
  }
  static constexpr float kUntouched = 12345.0f;
  bool resident_of_all_rows_ = true;
  std::vector<float> sink_logits_;  // [num_q_heads], or none

  // One query head of a row with scores: those of the slots attended over are there, in base 2, and no others.
  void CheckScores(const Batch& batch, uint32_t r, uint32_t head, const Expected& expected) {
    const DecodeRowDesc& row = batch.rows[r];
    std::vector<double> by_slot(row.capacity_tokens, std::nan(""));
    size_t t = 0;
    for (const DecodeRowDesc::Range& range : row.attend) {
      for (uint32_t slot = range.begin; slot < range.end; ++slot, ++t) {
        by_slot[slot] = expected.scores[t] / std::log(2.0);
      }
    }
    const std::vector<float> scores = batch.scores.at(r).Fetch();
    for (uint32_t slot = 0; slot < row.capacity_tokens; ++slot) {
      const float actual = scores[size_t{head} * row.capacity_tokens + slot];
      if (std::isnan(by_slot[slot])) {
        ASSERT_TRUE(std::isnan(actual)) << "slot " << slot;
      } else {
        ASSERT_NEAR(actual, by_slot[slot], 3e-4 + 1e-5 * std::abs(by_slot[slot])) << "slot " << slot;
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
    for (uint32_t r = 0; r < batch.rows.size(); ++r) {
      for (uint32_t head = 0; head < c.geometry.num_q_heads; ++head) {
        SCOPED_TRACE(testing::Message() << "row " << r << " (" << c.row_tokens[r] << " tokens), head " << head);
        Expected expected = Reference(batch, r, head, layer, scale, sink_logits_);
        const size_t idx = size_t{r} * c.geometry.num_q_heads + head;
        CheckLse(result.resident_lse_ln[idx], expected.lse_ln);
        for (uint32_t d = 0; d < c.geometry.head_dim; ++d) {
          ASSERT_NEAR(result.resident_out[idx * c.geometry.head_dim + d], expected.out[d], 3e-5 * expected.max_value)
              << "resident element " << d;
        }
        if (batch.rows[r].scores != nullptr) CheckScores(batch, r, head, expected);
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

// The resident part takes the sinks in, one that is empty as well, and the merge goes on from there.
TEST_F(AttendTest, Sinks) {
  for (const DType dtype : {DType::kF32, DType::kBf16}) {
    for (const uint32_t head_dim : {64u, 256u}) {
      sink_logits_ = {-20, 0, 3, 40};
      const std::vector<uint32_t> tokens =
          TestsAreSmall() ? std::vector<uint32_t>{0, 1, 37} : std::vector<uint32_t>{0, 1, 15, 200};
      Check({{4, 2, head_dim}, dtype, tokens, {64, 4}}, /*with_remote=*/true, DType::kF32);
      Check({{4, 2, head_dim}, dtype, tokens, {64, 4}}, /*with_remote=*/false, DType::kF32);
    }
  }
}

TEST_F(AttendTest, CappedScores) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    for (const uint32_t head_dim : {64u, 256u}) {
      Case c{{4, 2, head_dim}, dtype, {0, 1, 37, 150}, {64, 4}, /*soft_cap=*/2.0f};
      Check(c, /*with_remote=*/true, DType::kF32);
      c.soft_cap = 50;
      Check(c, /*with_remote=*/false, DType::kF32);
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

// The resident part goes out of the rows that want it, and is the same as where all are asked for.
TEST_F(AttendTest, RowsThatWantTheirResidentPart) {
  const Case c{{8, 2, 64}, DType::kBf16, {90, 40, 77}, {32, 8}};
  Batch batch(c, random_);
  const Remote remote(batch, random_);
  const Result all = Run(batch, &remote, 1, 0.1f, DType::kF32);
  std::vector<DecodeRowDesc> rows = batch.rows;
  rows[1].wants_resident_partial = true;
  batch.device_rows.Put(rows);
  resident_of_all_rows_ = false;
  const Result some = Run(batch, &remote, 1, 0.1f, DType::kF32);
  EXPECT_EQ(some.out, all.out);
  for (size_t i = 0; i < all.resident_out.size(); ++i) {
    EXPECT_EQ(some.resident_out[i], i / (8 * 64) == 1 ? all.resident_out[i] : kUntouched) << i;
  }
  for (size_t i = 0; i < all.resident_lse_ln.size(); ++i) {
    EXPECT_EQ(some.resident_lse_ln[i], i / 8 == 1 ? all.resident_lse_ln[i] : kUntouched) << i;
  }
}

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
  args.rule.split_tokens = 20;
  EXPECT_EQ(Attend(args, launch_), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace tributary::gpu

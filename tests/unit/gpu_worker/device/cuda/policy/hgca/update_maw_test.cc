// UpdateMaw() behind Attend(), against policy/hgca/maw.h with weights in f64, on ragged batches.
#include "gpu_worker/device/cuda/policy/hgca/update_maw.h"

#include <algorithm>
#include <map>

#include "policy/hgca/maw.h"
#include "tests/unit/gpu_worker/device/cuda/kernels/attend_batch.h"
#include "tests/unit/gpu_worker/device/cuda/kernels/kernel_test_util.h"

namespace tributary::gpu {
namespace {

constexpr uint32_t kKind = 3;
constexpr uint32_t kOtherKind = 2;

// Every other row of the batch has a MAW; one of the others has a facet of another policy.
struct MawBatch : Batch {
  MawBatch(const Case& c, std::mt19937_64& random) : Batch(c, random) {
    for (size_t r = 0; r < rows.size(); r += 2) AddMaw(r, random);
    if (rows.size() > 1) rows[1].facet_kind = kOtherKind;  // its facet is null: touching it would fail
    device_rows.Put(rows);
  }

  // Averages so far, of which some slots have none yet, NaN.
  void AddMaw(size_t r, std::mt19937_64& random) {
    DecodeRowDesc& row = rows[r];
    const size_t heads = size_t{kLayers} * c.geometry.num_kv_heads;
    before[r].resize(heads * row.capacity_tokens);
    for (float& value : before[r]) {
      value = RandomInt(random, 0, 4) == 0 ? std::nanf("") : 1.0f / static_cast<float>(RandomInt(random, 1, 100));
    }
    maw.emplace(r, before[r]);
    words[r] = {.params = {0.25f * static_cast<float>(RandomInt(random, 0, 4)),
                           RandomInt(random, 0, 1) == 0 ? GroupAggregate::kMax : GroupAggregate::kMean}};
    row.facet_kind = kKind;
    row.facet = reinterpret_cast<std::byte*>(maw.at(r).get());
    std::memcpy(row.facet_words, &words[r], sizeof(MawWords));
    row.append_slot = row.attend[1].end - 1;  // one that is attended over, if there are any
    uint32_t num_tokens = 0;
    for (const DecodeRowDesc::Range& range : row.attend) num_tokens += range.end - range.begin;
    row.step_tokens = RandomInt(random, 0u, std::min(num_tokens, 20u));
  }

  std::map<size_t, MawWords> words;
  std::map<size_t, std::vector<float>> before;
  mutable std::map<size_t, DeviceArray<float>> maw;
};

class UpdateMawTest : public KernelTest {
 protected:
  std::vector<float> sink_logits_;  // [num_q_heads], or none

  void Run(const MawBatch& batch, uint32_t layer, float scale) {
    const Case& c = batch.c;
    const auto num_rows = static_cast<uint32_t>(batch.rows.size());
    DeviceArray<std::byte> memory(AttendWorkspaceBytes(num_rows, c.geometry, c.rule));
    const AttendWorkspace workspace = MakeAttendWorkspace(memory.get(), num_rows, c.geometry, c.rule);
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
    DeviceArray<float> sinks(sink_logits_.empty() ? std::vector<float>{0} : sink_logits_);
    ExpectCudaOk(UpdateMaw({.facet_kind = kKind,
                            .rows = batch.device_rows.get(),
                            .num_rows = num_rows,
                            .layer = layer,
                            .geometry = c.geometry,
                            .rule = c.rule,
                            .workspace = workspace,
                            .sink_logits = sink_logits_.empty() ? nullptr : sinks.get()},
                           launch_));
  }

  // One KV head of a row: what was attended over has moved, nothing else has.
  void CheckHead(const MawBatch& batch, uint32_t r, uint32_t layer, uint32_t kv_head,
                 const std::vector<Expected>& group) {
    const DecodeRowDesc& row = batch.rows[r];
    const MawParams& params = batch.words.at(r).params;
    const size_t begin = (size_t{layer} * batch.c.geometry.num_kv_heads + kv_head) * row.capacity_tokens;
    std::vector<float> expected = batch.before.at(r);
    size_t t = 0;
    for (const DecodeRowDesc::Range& range : row.attend) {
      for (uint32_t slot = range.begin; slot < range.end; ++slot, ++t) {
        std::vector<float> weights;
        for (const Expected& e : group) {
          weights.push_back(static_cast<float>(std::exp(e.scores[t] - e.lse_ln)));
        }
        float a = 0;
        AggregateGroup(params.group_aggregate, weights, static_cast<uint32_t>(group.size()), {&a, 1});
        const bool is_new = slot == row.append_slot || t + row.step_tokens >= group[0].scores.size();
        tributary::UpdateMaw(params.alpha, {&a, 1}, is_new ? 0 : 1, {&expected[begin + slot], 1});
      }
    }
    const std::vector<float> actual = batch.maw.at(r).Fetch();
    for (size_t i = begin; i < begin + row.capacity_tokens; ++i) {
      if (std::isnan(expected[i])) {
        ASSERT_TRUE(std::isnan(actual[i])) << "slot " << i - begin;
      } else {
        ASSERT_NEAR(actual[i], expected[i], 1e-6 + 2e-4 * expected[i]) << "slot " << i - begin;
      }
    }
  }

  void Check(const Case& c) {
    SCOPED_TRACE(testing::Message() << "head_dim " << c.geometry.head_dim << " q heads " << c.geometry.num_q_heads
                                    << " kv heads " << c.geometry.num_kv_heads << " dtype " << DTypeName(c.dtype));
    const MawBatch batch(c, random_);
    const uint32_t layer = RandomInt(random_, 0u, kLayers - 1);
    const float scale = 1.0f / std::sqrt(static_cast<float>(c.geometry.head_dim));
    Run(batch, layer, scale);
    const uint32_t group = c.geometry.num_q_heads / c.geometry.num_kv_heads;
    for (uint32_t r = 0; r < batch.rows.size(); r += 2) {
      for (uint32_t kv_head = 0; kv_head < c.geometry.num_kv_heads; ++kv_head) {
        SCOPED_TRACE(testing::Message() << "row " << r << " (" << c.row_tokens[r] << " tokens), KV head " << kv_head);
        std::vector<Expected> of_group;
        for (uint32_t i = 0; i < group; ++i) {
          of_group.push_back(Reference(batch, r, kv_head * group + i, layer, scale, sink_logits_));
        }
        CheckHead(batch, r, layer, kv_head, of_group);
      }
    }
  }
};

TEST_F(UpdateMawTest, EveryHeadDimAndDType) {
  for (const uint32_t head_dim : {8u, 16u, 32u, 64u, 80u, 96u, 128u, 256u}) {
    for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
      if (TestsAreSmall() && head_dim != 16 && head_dim != 128) continue;
      Case c{{4, 2, head_dim}, dtype, {0, 1, 15, 16, 17, 200, 333}, {64, 4}};
      if (TestsAreSmall()) c.row_tokens = {0, 1, 37, 70};
      Check(c);
    }
  }
}

TEST_F(UpdateMawTest, EveryGroupSize) {
  for (const uint32_t group : {1u, 2u, 3u, 4u, 5u, 7u, 8u, 12u, 16u, 20u}) {
    for (const DType dtype : {DType::kF32, DType::kBf16}) {
      if (TestsAreSmall() && group != 5 && group != 12) continue;
      Check({{2 * group, 2, 64}, dtype, {129, 30}, {32, 8}});
    }
  }
}

TEST_F(UpdateMawTest, SinksTakeTheirShareOfTheWeights) {
  sink_logits_ = {-9, 0, 2, 6};
  Check({{4, 2, 64}, DType::kBf16, {129, 30}, {32, 8}});
}

// More splits than the workspace has room for, and more tokens than the kernel's blocks of threads take at once.
TEST_F(UpdateMawTest, LongRows) {
  Check({{4, 4, 64}, DType::kBf16, {500, 65, 64}, {16, 4}});
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    Check({{4, 2, 64}, dtype, {5000, 3, 2049, 1, 2048, 2, 4097}, {128, 64}});
    Check({{16, 1, 128}, dtype, {2600, 3, 257, 1, 256}, {256, 64}});
  }
}

TEST_F(UpdateMawTest, RefusesWhatItDoesNotServe) {
  UpdateMawArgs args{.facet_kind = kKind, .num_rows = 1, .geometry = {4, 3, 64}, .rule = {64, 1}};
  EXPECT_EQ(UpdateMaw(args, launch_), cudaErrorInvalidValue);
  args.geometry = {4, 2, 64};
  args.facet_kind = 0;
  EXPECT_EQ(UpdateMaw(args, launch_), cudaErrorInvalidValue);
}

}  // namespace
}  // namespace tributary::gpu

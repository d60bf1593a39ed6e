// Every model family through the whole path against Hugging Face Transformers (tests/golden), however the context is
// cut over nodes and windows. golden_cluster_test.cc does the same for the probe model.
#include <cmath>
#include <cstring>
#include <filesystem>
#include <random>
#include <string>
#include <vector>

#include "base/log.h"
#include "fmt/format.h"
#include "gpu_worker/device/host/host_device.h"
#include "gtest/gtest.h"
#include "model/weights.h"
#include "tests/sim/sim_cluster.h"
#include "tests/testutil/logprobs.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

constexpr double kMaxLogprobError = 1e-4;

struct Golden {
  std::vector<uint32_t> prompt;
  std::vector<uint32_t> greedy;
  std::vector<float> logits;  // [greedy][vocab]
};

template <typename T>
std::vector<T> Values(const SafetensorsFile& file, const std::string& name) {
  const auto tensor = file.Find(name);
  EXPECT_TRUE(tensor.ok()) << tensor.status();
  std::vector<T> values((*tensor)->bytes.size() / sizeof(T));
  std::memcpy(values.data(), (*tensor)->bytes.data(), values.size() * sizeof(T));
  return values;
}

Golden LoadGolden(const std::filesystem::path& path) {
  const auto file = SafetensorsFile::Open(path);
  EXPECT_TRUE(file.ok()) << file.status();
  return {Values<uint32_t>(*file, "prompt_tokens"), Values<uint32_t>(*file, "greedy_tokens"),
          Values<float>(*file, "greedy_logits")};
}

#if defined(__SANITIZE_THREAD__)
// What threads do does not depend on the family.
constexpr const char* kFamilies[] = {"llama3", "gpt_oss", "qwen2_sliding", "mistral_sliding"};
#else
// clang-format off
constexpr const char* kFamilies[] = {
    "llama2", "llama3", "llama31", "mistral", "qwen2", "qwen3", "llama3_sharded", "linear", "dynamic", "yarn",
    "phi3", "smollm3", "olmo2", "granite", "mixtral", "qwen3_moe", "mistral_sliding", "qwen2_sliding", "gemma3",
    "gpt_oss", "phi3_partial", "glm", "glm4", "gemma2", "phi3_sliding", "mixtral_sliding", "qwen3_sliding",
    "qwen3_moe_sliding", "smollm3_sliding"};
// clang-format on
#endif

// One way of cutting a context.
struct Plan {
  uint32_t num_nodes;
  SimCut cut;
  WindowLayout layout;
  DType kv_dtype = DType::kF32;

  std::string Name() const {
    return fmt::format(
        "{} nodes, {} stripes of {} blocks, {} head parts, {} layer parts, sink {}, window {}, "
        "block {}{}",
        num_nodes, cut.num_stripes, cut.stripe_blocks, cut.head_parts, cut.layer_parts, layout.sink_tokens,
        layout.window_tokens, layout.block_tokens, layout.all_resident ? ", all resident" : "");
  }
};

class FamiliesTest : public testing::Test {
 protected:
  FamiliesTest() : random_(seed_) { (void)InitLogging("golden", "error"); }

  void Load(const std::filesystem::path& model_dir) {
    auto weights = LoadModelWeights(model_dir);
    ASSERT_TRUE(weights.ok()) << weights.status();
    weights_ = *weights;
  }
  SimResult Run(const Plan& plan, const std::vector<uint32_t>& prompt, uint32_t max_tokens) {
    SimOptions options;
    options.num_nodes = plan.num_nodes;
    options.model.shape = weights_->config.attention;
    options.model.num_layers = weights_->config.num_layers;
    options.model.vocab_size = weights_->config.vocab_size;
    options.windowed_layers = weights_->config.windowed_layers();
    if (!options.windowed_layers.empty()) {
      options.sliding_window_tokens = weights_->config.layers[options.windowed_layers[0]].sliding_window_tokens;
    }
    options.softmax_scale = static_cast<float>(weights_->config.softmax_scale);
    options.soft_cap = static_cast<float>(weights_->config.attention_soft_cap);
    options.node_pool_bytes = 256u << 20;
    options.resident_pool_bytes = 64u << 20;
    options.max_prefill_tokens = 20'000;
    options.spill_window_bytes = 1 << 20;
    options.spill_frame_bytes = 64 << 10;
    options.make_device = [&](const DeviceLimits& limits) { return *MakeHostDevice(weights_, limits, 2); };
    SimCluster cluster(options);
    SimRequest request;
    request.prompt = prompt;
    request.max_tokens = max_tokens;
    request.layout = plan.layout;
    request.cut = plan.cut;
    request.kv_dtype = plan.kv_dtype;
    const SequenceId id = cluster.Submit(request);
    EXPECT_TRUE(cluster.RunUntilEnded());
    EXPECT_TRUE(cluster.result(id).status.ok()) << cluster.result(id).status;
    EXPECT_EQ(cluster.Leftovers(), "");
    ExpectWhereItLies(cluster.result(id).summary, plan.layout.all_resident);
    return cluster.result(id);
  }
  // What no layer looks at any more is neither resident nor remote.
  void ExpectWhereItLies(const SequenceSummary& summary, bool all_resident) {
    const bool has_shards = weights_->config.windowed_layers().size() < weights_->config.num_layers;
    const uint64_t gone = summary.context_tokens - summary.resident_tokens - summary.remote_tokens;
    if (has_shards || all_resident) {
      EXPECT_EQ(gone, 0u);
    } else {
      EXPECT_EQ(summary.remote_tokens, 0u);
      EXPECT_TRUE(summary.nodes.empty());
    }
  }
  // Greedy tokens must be the same wherever the golden's top-2 margin exceeds the error bound; beyond the first close
  // call that went the other way the texts may differ.
  void ExpectGolden(const Plan& plan, const Golden& golden) {
    SCOPED_TRACE(plan.Name());
    const size_t vocab = weights_->config.vocab_size;
    const SimResult result = Run(plan, golden.prompt, static_cast<uint32_t>(golden.greedy.size()));
    ASSERT_EQ(result.tokens.size(), golden.greedy.size());
    for (size_t i = 0; i < golden.greedy.size(); ++i) {
      const std::span<const float> expected(golden.logits.data() + i * vocab, vocab);
      ASSERT_LE(MaxLogprobDifference(result.logits[i], expected), kMaxLogprobError) << "token " << i;
      if (result.tokens[i] == golden.greedy[i]) continue;
      const float margin = expected[golden.greedy[i]] - expected[result.tokens[i]];
      ASSERT_LE(margin, 2 * kMaxLogprobError) << "token " << i;
      return;
    }
  }
  Plan RandomPlan(uint32_t num_nodes, uint64_t context) {
    Plan plan{.num_nodes = num_nodes, .cut = {}, .layout = {}};
    plan.layout.block_tokens = RandomInt(random_, 0, 1) == 0 ? 16 : 64;
    plan.layout.sink_tokens = RandomInt(random_, 0, 1) == 0 ? 0 : 64;
    plan.layout.window_tokens =
        RandomInt<uint32_t>(random_, 64, static_cast<uint32_t>(std::max<uint64_t>(64, context / 2)));
    const bool by_heads = RandomInt(random_, 0, 1) == 0;
    plan.cut.head_parts = by_heads ? std::min(2u, weights_->config.attention.num_kv_heads) : 1;
    plan.cut.num_stripes = by_heads ? std::max(1u, num_nodes / 2) : num_nodes;
    plan.cut.stripe_blocks = RandomInt<uint64_t>(random_, 1, 4);
    const size_t shard_layers = weights_->config.num_layers - weights_->config.windowed_layers().size();
    plan.cut.layer_parts = shard_layers < 2 ? 1 : RandomInt<uint32_t>(random_, 1, 2);
    return plan;
  }

  const uint64_t seed_ = TestSeed();
  testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_;
  std::shared_ptr<const ModelWeights> weights_;
};

TEST_F(FamiliesTest, AgreeWithTransformersHoweverTheContextIsCut) {
  for (const char* name : kFamilies) {
    SCOPED_TRACE(name);
    ASSERT_NO_FATAL_FAILURE(Load(std::filesystem::path("tests/golden/models") / name));
    const Golden golden = LoadGolden(fmt::format("tests/golden/{}.safetensors", name));
    ExpectGolden({.num_nodes = 1, .cut = {}, .layout = {.all_resident = true}}, golden);
    for (const uint32_t num_nodes : {1, 2, 4}) ExpectGolden(RandomPlan(num_nodes, golden.prompt.size()), golden);
  }
}

}  // namespace
}  // namespace tributary

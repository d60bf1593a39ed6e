// Sequences whose KV is lost with a node or with the worker: computed again from their tokens, elsewhere, they go on
// with the same tokens and the same logits, bit for bit.
#include <algorithm>
#include <filesystem>
#include <memory>
#include <tuple>
#include <vector>

#include "gpu_worker/device/host/host_device.h"
#include "gtest/gtest.h"
#include "model/weights.h"
#include "policy/policy_params.h"
#include "tests/sim/sim_fixture.h"

namespace tributary {
namespace {

using testing::ExpectSame;
using testing::kRounds;
using testing::RandomRequest;
using testing::Reference;

class RebuildTest : public testing::SimTest {
 protected:
  SimOptions Options() {
    SimOptions options = RandomOptions();
    options.num_nodes = RandomInt(random_, 2u, 4u);
    return options;
  }
  // Any dtypes, any sampling; something of it is remote from the first token on.
  SimRequest LongRequest(const TinyModel& model) {
    SimRequest request = RandomRequest(random_, model);
    request.prompt.resize(RandomInt<size_t>(random_, 60, 160), 1);
    request.max_tokens = RandomInt(random_, 20u, 60u);
    request.layout = {.sink_tokens = 4, .window_tokens = 16, .block_tokens = 8};
    return request;
  }
  // As the coordinator does: what has failed because of a node begins anew.
  static void RunToTheEnd(SimCluster& cluster, const std::vector<SequenceId>& ids) {
    for (int round = 0; round < 10; ++round) {
      ASSERT_TRUE(cluster.RunUntilEnded());
      if (std::all_of(ids.begin(), ids.end(), [&](SequenceId id) { return cluster.result(id).status.ok(); })) return;
      cluster.RebuildFailed();
    }
    FAIL() << "they fail for ever";
  }
  static void TurnUntil(SimCluster& cluster, SequenceId id, size_t num_tokens) {
    for (int turn = 0; turn < 20'000 && cluster.result(id).tokens.size() < num_tokens; ++turn) {
      ASSERT_FALSE(cluster.result(id).ended) << cluster.result(id).status;
      cluster.Turn();
    }
    ASSERT_GE(cluster.result(id).tokens.size(), num_tokens);
  }
  // Two turns, with everything lost after so many tokens of the second one (SIZE_MAX: never).
  SimResult SecondTurn(const SimOptions& options, const SimRequest& request, const SimTurn& turn, size_t lost_after) {
    SimCluster cluster(options);
    const SequenceId id = cluster.Submit(request);
    EXPECT_TRUE(cluster.RunUntilEnded());
    cluster.Continue(id, turn);
    if (lost_after != SIZE_MAX) {
      TurnUntil(cluster, id, lost_after);
      cluster.RestartWorker();
      cluster.Rebuild(id);
    }
    EXPECT_TRUE(cluster.RunUntilEnded());
    SimResult result = cluster.result(id);
    if (result.kept) cluster.Stop(id);
    EXPECT_EQ(cluster.Leftovers(), "");
    return result;
  }
};

// During prefill, in the middle of a layer, while a block leaves, while it is rebuilt: at any moment.
TEST_F(RebuildTest, ANodeThatIsKilledAtAnyMomentCostsNoToken) {
  uint32_t num_rebuilds = 0;
  for (int round = 0; round < 3 * kRounds; ++round) {
    const SimOptions options = Options();
    std::vector<SimRequest> requests;
    for (int i = 0; i < 3; ++i) requests.push_back(LongRequest(options.model));
    SimCluster cluster(options);
    const uint32_t victim = RandomInt(random_, 0u, options.num_nodes - 1);
    const auto kill_at = RandomInt<uint64_t>(random_, 1, 600);
    const bool comes_back = RandomInt(random_, 0, 1) == 0;
    cluster.on_wait = [&cluster, victim, kill_at, comes_back](uint64_t wait) {
      if (wait != kill_at) return;
      comes_back ? cluster.Restart(victim) : cluster.Kill(victim);
    };
    std::vector<SequenceId> ids;
    for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
    ASSERT_NO_FATAL_FAILURE(RunToTheEnd(cluster, ids));
    for (size_t i = 0; i < requests.size(); ++i) {
      ExpectSame(cluster.result(ids[i]), Reference(options, requests[i]));
      num_rebuilds += cluster.result(ids[i]).num_rebuilds;
    }
    EXPECT_EQ(cluster.Leftovers(), "");
  }
  EXPECT_GT(num_rebuilds, 0u);
}

TEST_F(RebuildTest, AWorkerThatIsKilledAtAnyMomentCostsNoToken) {
  for (int round = 0; round < kRounds; ++round) {
    const SimOptions options = Options();
    std::vector<SimRequest> requests;
    for (int i = 0; i < 2; ++i) requests.push_back(LongRequest(options.model));
    requests.back().layout.all_resident = RandomInt(random_, 0, 1) == 0;
    SimCluster cluster(options);
    std::vector<SequenceId> ids;
    for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
    for (int deaths = RandomInt(random_, 1, 3); deaths > 0; --deaths) {
      for (int turns = RandomInt(random_, 0, 60); turns > 0; --turns) cluster.Turn();
      cluster.RestartWorker();
      cluster.RebuildFailed();
    }
    ASSERT_NO_FATAL_FAILURE(RunToTheEnd(cluster, ids));
    for (size_t i = 0; i < requests.size(); ++i) ExpectSame(cluster.result(ids[i]), Reference(options, requests[i]));
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

// Its nodes and its device see the queries that they saw at first, so they select what they selected.
TEST_F(RebuildTest, ASparseSequenceReadsWhatItReadBefore) {
  for (const char* name : {"hgca", "delta", "fluxion"}) {
    SCOPED_TRACE(name);
    for (int round = 0; round < kRounds / 4; ++round) {
      const SimOptions options = Options();
      SimRequest request = LongRequest(options.model);
      PolicyRequest policy{.name = name, .parameters = {}};
      policy.Set("quality_sample_rate", 0.5);
      const auto resolved = ResolvePolicy(policy, {.block_tokens = request.layout.block_tokens,
                                                   .num_layers = options.model.num_layers,
                                                   .num_kv_heads = options.model.shape.num_kv_heads});
      ASSERT_TRUE(resolved.ok()) << resolved.status();
      request.policy = *resolved;
      const SimResult undisturbed = Reference(options, request);
      SimCluster cluster(options);
      const SequenceId id = cluster.Submit(request);
      ASSERT_NO_FATAL_FAILURE(TurnUntil(cluster, id, RandomInt<size_t>(random_, 1, request.max_tokens - 1)));
      cluster.Kill(0);
      ASSERT_NO_FATAL_FAILURE(RunToTheEnd(cluster, {id}));
      ExpectSame(cluster.result(id), undisturbed);
      EXPECT_EQ(cluster.result(id).num_rebuilds, 1u);
      ASSERT_TRUE(cluster.result(id).summary.attention && undisturbed.summary.attention);
      EXPECT_EQ(cluster.result(id).summary.attention->num_samples, undisturbed.summary.attention->num_samples);
      EXPECT_EQ(cluster.result(id).summary.attention->remote_read_share,
                undisturbed.summary.attention->remote_read_share);
    }
  }
}

// The first prompt was prefilled, the second one appended in chunks, the answers token by token: so they are again.
TEST_F(RebuildTest, ALaterTurnIsRebuiltWithTheTurnsBefore) {
  for (int round = 0; round < kRounds; ++round) {
    const SimOptions options = Options();
    SimRequest request = LongRequest(options.model);
    request.max_tokens = RandomInt(random_, 1u, 20u);
    request.keep = true;
    request.max_context_tokens = 400;
    SimTurn turn{.prompt = std::vector<uint32_t>(RandomInt<size_t>(random_, 0, 40), 2), .max_tokens = 30};
    turn.sampling = request.sampling;
    turn.keep = RandomInt(random_, 0, 1) == 0;
    const SimResult undisturbed = SecondTurn(options, request, turn, SIZE_MAX);
    ASSERT_TRUE(undisturbed.status.ok()) << undisturbed.status;
    const SimResult rebuilt = SecondTurn(options, request, turn, RandomInt<size_t>(random_, 0, 29));
    ExpectSame(rebuilt, undisturbed);
    EXPECT_EQ(rebuilt.kept, turn.keep);
    EXPECT_EQ(rebuilt.summary.prompt_tokens, undisturbed.summary.prompt_tokens);
    EXPECT_EQ(rebuilt.summary.generated_tokens, undisturbed.summary.generated_tokens);
    EXPECT_EQ(rebuilt.summary.context_tokens, undisturbed.summary.context_tokens);
    EXPECT_EQ(rebuilt.summary.remote_tokens, undisturbed.summary.remote_tokens);
    EXPECT_EQ(rebuilt.summary.finish_reason, undisturbed.summary.finish_reason);
  }
}

// Its last token had come, and its end had not: no token comes again, and a kept sequence can be continued.
TEST_F(RebuildTest, ACompleteAnswerGetsNoFurtherToken) {
  for (const uint32_t max_tokens : {1u, 25u}) {
    for (const bool keep : {false, true}) {
      const SimOptions options = Options();
      SimRequest request = LongRequest(options.model);
      request.max_tokens = max_tokens;
      request.keep = keep;
      request.max_context_tokens = keep ? 300 : 0;
      const SimTurn turn{.prompt = {1, 2, 3}, .max_tokens = 20};
      const auto answer = [&](bool is_lost) {
        SimCluster cluster(options);
        const SequenceId id = cluster.Submit(request);
        EXPECT_TRUE(cluster.RunUntilEnded());
        if (is_lost) {
          if (keep) cluster.RestartWorker();
          cluster.Rebuild(id);
          EXPECT_TRUE(cluster.RunUntilEnded());
        }
        EXPECT_TRUE(cluster.result(id).status.ok()) << cluster.result(id).status;
        EXPECT_EQ(cluster.result(id).tokens.size(), max_tokens);
        EXPECT_EQ(cluster.result(id).summary.finish_reason, "length");
        EXPECT_EQ(cluster.result(id).kept, keep);
        if (keep) {
          cluster.Continue(id, turn);
          EXPECT_TRUE(cluster.RunUntilEnded());
        }
        EXPECT_EQ(cluster.Leftovers(), "");
        return cluster.result(id);
      };
      ExpectSame(answer(true), answer(false));
    }
  }
}

// Nobody waits for a step of the coordinator's while tokens are computed again, and one that is stopped then is gone.
TEST_F(RebuildTest, OneThatIsRebuiltCanBeStopped) {
  const SimOptions options = Options();
  SimCluster cluster(options);
  SimRequest request = LongRequest(options.model);
  request.max_tokens = 60;
  const SequenceId id = cluster.Submit(request);
  ASSERT_NO_FATAL_FAILURE(TurnUntil(cluster, id, 50));
  cluster.RestartWorker();
  cluster.Rebuild(id);
  for (int turns = RandomInt(random_, 0, 30); turns > 0; --turns) cluster.Turn();
  cluster.Stop(id);
  EXPECT_TRUE(cluster.result(id).ended);
  EXPECT_TRUE(absl::IsCancelled(cluster.result(id).status)) << cluster.result(id).status;
  EXPECT_EQ(cluster.Leftovers(), "");
}

// Real kernels, in every dtype: prefill, steps and what shards store round as they did.
TEST_F(RebuildTest, OnTheHostDeviceBitsAreTheSameInEveryDType) {
  for (const char* name : {"llama3", "gemma3"}) {
    SCOPED_TRACE(name);
    const auto weights = LoadModelWeights(std::filesystem::path("tests/golden/models") / name);
    ASSERT_TRUE(weights.ok()) << weights.status();
    const ModelConfig& config = (*weights)->config;
    SimOptions options;
    options.num_nodes = 3;
    options.model.shape = config.attention;
    options.model.num_layers = config.num_layers;
    options.model.vocab_size = config.vocab_size;
    options.windowed_layers = config.windowed_layers();
    if (!options.windowed_layers.empty()) {
      options.sliding_window_tokens = config.layers[options.windowed_layers[0]].sliding_window_tokens;
    }
    options.softmax_scale = static_cast<float>(config.softmax_scale);
    options.node_pool_bytes = 64u << 20;
    options.resident_pool_bytes = 16u << 20;
    options.make_device = [&](const DeviceLimits& limits) { return *MakeHostDevice(*weights, limits, 2); };
    for (const auto& [kv, remote_k, remote_v] :
         {std::tuple{DType::kF32, DType::kF32, DType::kF32}, std::tuple{DType::kBf16, DType::kBf16, DType::kBf16},
          std::tuple{DType::kF16, DType::kInt8, DType::kInt4},
          std::tuple{DType::kBf16, DType::kFp8E4m3, DType::kInt8}}) {
      SimRequest request = LongRequest(options.model);
      for (uint32_t& token : request.prompt) token = RandomInt(random_, 0u, config.vocab_size - 1);
      request.kv_dtype = kv;
      request.remote_k_dtype = remote_k;
      request.remote_v_dtype = remote_v;
      request.layout.window_tokens = std::max(16u, options.sliding_window_tokens);
      request.prompt.resize(request.layout.window_tokens + 60, 1);
      request.cut = {.num_stripes = 2, .stripe_blocks = 1, .head_parts = 1, .layer_parts = 1};
      const SimResult undisturbed = Reference(options, request);
      SimCluster cluster(options);
      const SequenceId id = cluster.Submit(request);
      ASSERT_NO_FATAL_FAILURE(TurnUntil(cluster, id, request.max_tokens / 2));
      cluster.Kill(1);
      ASSERT_NO_FATAL_FAILURE(RunToTheEnd(cluster, {id}));
      ExpectSame(cluster.result(id), undisturbed);
      EXPECT_EQ(cluster.result(id).num_rebuilds, 1u);
    }
  }
}

}  // namespace
}  // namespace tributary

// The in-process cluster under seeded faults: right tokens or a clear error, never other tokens,
// and nothing left behind.
#include <algorithm>
#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "gpu_worker/device/host/host_device.h"
#include "gtest/gtest.h"
#include "model/weights.h"
#include "tests/sim/sim_fixture.h"
#include "tests/testutil/random_model.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

using testing::ExpectPrefixOf;
using testing::ExpectRightOrClearError;
using testing::ExpectSame;
using testing::kRounds;
using testing::RandomRequest;
using testing::Reference;
using testing::SimTest;

TEST_F(SimTest, DistributedLogitsAreThoseOfTheAllResidentRun) {
  for (int round = 0; round < kRounds; ++round) {
    const SimOptions options = RandomOptions();
    SimRequest request = RandomRequest(random_, options.model);
    // The same tokens on both sides, so that every position can be compared.
    for (uint32_t i = 0; i < request.max_tokens; ++i)
      request.forced_tokens.push_back(random_() % options.model.vocab_size);
    request.remote_k_dtype = request.remote_v_dtype = DType::kUnset;  // nothing is lost on the way
    const SimResult distributed = Reference(options, request);
    SimRequest resident_request = request;
    resident_request.layout = {.all_resident = true};
    const SimResult resident = Reference(options, resident_request);
    ASSERT_EQ(distributed.tokens, resident.tokens);
    // Coarser storage turns small differences of one layer into rounding steps of the next one's KV; and over bf16
    // KV the nodes' kernels round probabilities to bf16, too.
    const float tolerance = request.kv_dtype == DType::kF32 ? 1e-4f : request.kv_dtype == DType::kF16 ? 0.05f : 0.2f;
    for (size_t i = 0; i < resident.logits.size(); ++i) {
      for (size_t v = 0; v < resident.logits[i].size(); ++v) {
        ASSERT_NEAR(distributed.logits[i][v], resident.logits[i][v], tolerance) << "token " << i;
      }
    }
    const SequenceSummary& summary = distributed.summary;
    EXPECT_EQ(summary.context_tokens, request.prompt.size() + request.max_tokens);
    EXPECT_EQ(summary.resident_tokens + summary.remote_tokens, summary.context_tokens);
    EXPECT_EQ(summary.finish_reason, "length");
    if (summary.remote_tokens > 0) {
      EXPECT_GT(summary.bytes_sent, 0u);
      EXPECT_FALSE(summary.nodes.empty());
    }
  }
}

TEST_F(SimTest, EightSequencesTogetherAreBitwiseTheSameAsAlone) {
  for (int round = 0; round < 3; ++round) {
    const SimOptions options = RandomOptions();
    const std::vector<SimRequest> requests = RandomRequests(8, options.model);
    SimCluster cluster(options);
    std::vector<SequenceId> ids;
    for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
    ASSERT_TRUE(cluster.RunUntilEnded());
    for (size_t i = 0; i < requests.size(); ++i) ExpectSame(cluster.result(ids[i]), Reference(options, requests[i]));
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

TEST_F(SimTest, DelayReorderingAndDuplicationChangeNoBit) {
  for (int round = 0; round < kRounds; ++round) {
    SimOptions options = RandomOptions();
    options.faults.max_delay_ns = RandomInt<int64_t>(random_, 0, 20) * kNsPerMs;
    options.faults.max_delay_polls = RandomInt<uint32_t>(random_, 0, 5);
    options.faults.duplicate = 0.2;
    const std::vector<SimRequest> requests = RandomRequests(3, options.model);
    SimCluster cluster(options);
    std::vector<SequenceId> ids;
    for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
    ASSERT_TRUE(cluster.RunUntilEnded());
    for (size_t i = 0; i < requests.size(); ++i) ExpectSame(cluster.result(ids[i]), Reference(options, requests[i]));
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

TEST_F(SimTest, LossAndDamageGiveRightTokensOrAClearError) {
  int failed = 0, succeeded = 0;
  for (int round = 0; round < kRounds; ++round) {
    SimOptions options = RandomOptions();
    const double rate = std::vector{0.0003, 0.003, 0.03}[round % 3];
    options.faults.loss = rate;
    options.faults.corrupt = rate;
    options.faults.duplicate = 0.05;
    options.faults.max_delay_ns = kNsPerMs;
    const std::vector<SimRequest> requests = RandomRequests(3, options.model);
    SimCluster cluster(options);
    std::vector<SequenceId> ids;
    for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
    ASSERT_TRUE(cluster.RunUntilEnded());
    for (size_t i = 0; i < requests.size(); ++i) {
      ExpectRightOrClearError(cluster, cluster.result(ids[i]), Reference(options, requests[i]));
      ++(cluster.result(ids[i]).status.ok() ? succeeded : failed);
    }
    EXPECT_EQ(cluster.Leftovers(), "");
  }
  EXPECT_GT(failed, 0);
  EXPECT_GT(succeeded, 0);
}

TEST_F(SimTest, AKilledFrozenOrCutNodeFailsItsSequencesOnly) {
  for (int round = 0; round < 2 * kRounds; ++round) {
    const SimOptions options = RandomOptions();
    const std::vector<SimRequest> requests = RandomRequests(4, options.model);
    SimCluster cluster(options);
    const auto victim = RandomInt<uint32_t>(random_, 0, options.num_nodes - 1);
    const auto fault_at = RandomInt<uint64_t>(random_, 1, 400);
    cluster.on_wait = [&](uint64_t wait) {
      if (wait != fault_at) return;
      if (round % 3 == 0) cluster.Kill(victim);
      if (round % 3 == 1) cluster.Freeze(victim);
      if (round % 3 == 2) cluster.Cut(victim);
    };
    std::vector<SequenceId> ids;
    for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
    ASSERT_TRUE(cluster.RunUntilEnded());
    for (size_t i = 0; i < requests.size(); ++i) {
      const SimResult& result = cluster.result(ids[i]);
      ExpectRightOrClearError(cluster, result, Reference(options, requests[i]));
      if (!result.status.ok()) {
        EXPECT_EQ(result.failed_node, cluster.node_id(victim));
      }
    }
    cluster.Thaw(victim);
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

TEST_F(SimTest, ARestartedNodeServesLaterSequences) {
  for (int round = 0; round < 4; ++round) {
    const SimOptions options = RandomOptions();
    SimRequest request = RandomRequest(random_, options.model);
    request.prompt.resize(100, 1);
    request.max_tokens = 40;
    SimCluster cluster(options);
    const SequenceId first = cluster.Submit(request);
    for (int i = 0; i < 5 + round * 10; ++i) cluster.Turn();
    cluster.Restart(0);
    const SequenceId second = cluster.Submit(request);
    ASSERT_TRUE(cluster.RunUntilEnded());
    const SimResult reference = Reference(options, request);
    ExpectRightOrClearError(cluster, cluster.result(first), reference);
    EXPECT_EQ(cluster.result(first).failed_node, "cpu-0");
    ExpectSame(cluster.result(second), reference);
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

TEST_F(SimTest, StoppedSequencesLeaveNothing) {
  for (int round = 0; round < kRounds; ++round) {
    const SimOptions options = RandomOptions();
    const std::vector<SimRequest> requests = RandomRequests(4, options.model);
    SimCluster cluster(options);
    std::vector<SequenceId> ids;
    for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
    const int turns = RandomInt(random_, 0, 60);
    for (int i = 0; i < turns; ++i) cluster.Turn();
    const bool running = !cluster.result(ids[1]).ended;
    cluster.Stop(ids[1]);
    if (running) {
      EXPECT_EQ(cluster.result(ids[1]).status.code(), absl::StatusCode::kCancelled);
    }
    ASSERT_TRUE(cluster.RunUntilEnded());
    for (size_t i = 0; i < requests.size(); ++i) {
      if (i != 1) ExpectSame(cluster.result(ids[i]), Reference(options, requests[i]));
    }
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

TEST_F(SimTest, ManySequencesInARowLeavePoolsEmpty) {
  SimOptions options = RandomOptions();
  options.max_frames_in_flight = 64;  // a leaked frame would soon be missed
  SimCluster cluster(options);
  for (int i = 0; i < 100; ++i) {
    SimRequest request = RandomRequest(random_, options.model);
    request.max_tokens = RandomInt<uint32_t>(random_, 1, 8);
    const SequenceId id = cluster.Submit(request);
    ASSERT_TRUE(cluster.RunUntilEnded());
    ASSERT_TRUE(cluster.result(id).status.ok()) << cluster.result(id).status;
    ASSERT_EQ(cluster.Leftovers(), "");
  }
}

// A layer's queries do not all fit the pool at once: some are made when others have been taken off it.
TEST_F(SimTest, FewerFramesThanNodesChangeNoBit) {
  for (int round = 0; round < kRounds; ++round) {
    SimOptions options = RandomOptions();
    options.num_nodes = 4;
    SimRequest request = RandomRequest(random_, options.model);
    request.cut = {.num_stripes = 4, .stripe_blocks = 1};
    const SimResult expected = Reference(options, request);
    options.max_frames_in_flight = RandomInt<uint32_t>(random_, 1, 3);
    SimCluster cluster(options);
    const SequenceId id = cluster.Submit(request);
    ASSERT_TRUE(cluster.RunUntilEnded());
    ExpectSame(cluster.result(id), expected);
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

TEST_F(SimTest, StopTokensAndForcedTokens) {
  SimOptions options = RandomOptions();
  SimRequest request = RandomRequest(random_, options.model);
  request.sampling = {};
  request.max_tokens = 30;
  const SimResult free_run = Reference(options, request);
  request.stop_tokens = {free_run.tokens[10]};
  const SimResult stopped = Reference(options, request);
  EXPECT_EQ(stopped.summary.finish_reason, "stop");
  EXPECT_EQ(stopped.tokens.back(), free_run.tokens[10]);
  EXPECT_LE(stopped.tokens.size(), 11u);
  // A forced token never stops the sequence.
  request.forced_tokens.assign(12, free_run.tokens[10]);
  const SimResult forced = Reference(options, request);
  EXPECT_GT(forced.tokens.size(), 12u);
}

// Of every token, forced ones and the prefill's too.
TEST_F(SimTest, AlternativesAreTheLogSoftmaxOfTheLogits) {
  SimOptions options = RandomOptions();
  SimRequest request = RandomRequest(random_, options.model);
  request.max_tokens = 20;
  request.stop_tokens.clear();
  request.forced_tokens = {1, 2, 3, 4, 5};
  request.top_logprobs = RandomInt<uint32_t>(random_, 1, options.model.vocab_size);
  const SimResult result = Reference(options, request);
  ASSERT_TRUE(result.status.ok()) << result.status;
  ASSERT_EQ(result.tokens.size(), 20u);
  ASSERT_EQ(result.top.size(), 20u);
  for (size_t i = 0; i < result.top.size(); ++i) {
    const std::vector<float>& logits = result.logits[i];
    double sum = 0;
    for (const float logit : logits) sum += std::exp(double{logit});
    const TopTokens& top = result.top[i];
    ASSERT_EQ(top.tokens.size(), request.top_logprobs);
    ASSERT_EQ(top.logprobs.size(), request.top_logprobs);
    for (size_t k = 0; k < top.tokens.size(); ++k) {
      EXPECT_NEAR(top.logprobs[k], logits[top.tokens[k]] - std::log(sum), 1e-5);
      if (k > 0) {
        EXPECT_GE(logits[top.tokens[k - 1]], logits[top.tokens[k]]);
      }
      if (top.tokens[k] == result.tokens[i]) {
        EXPECT_EQ(top.logprobs[k], result.logprobs[i]);
      }
    }
    EXPECT_EQ(logits[top.tokens[0]], *std::max_element(logits.begin(), logits.end()));
  }
  request.top_logprobs = 0;
  EXPECT_TRUE(Reference(options, request).top.empty());
}

// Decodes to logits that are no numbers.
class PoisonedDevice final : public TinyDevice {
 public:
  using TinyDevice::TinyDevice;
  std::span<const float> EndStep() override {
    logits_.assign(TinyDevice::EndStep().size(), NAN);
    return logits_;
  }

 private:
  std::vector<float> logits_;
};

TEST_F(SimTest, LogitsThatAreNoNumbersAreAnErrorEvenIfTheyLookLikeAStopToken) {
  SimOptions options = RandomOptions();
  SimRequest request;
  uint32_t first_token = 0;
  while (first_token == 0) {  // the prefill is sound, and must not stop the sequence
    request = RandomRequest(random_, options.model);
    request.sampling = {};
    request.max_tokens = 10;
    first_token = Reference(options, request).tokens[0];
  }
  request.stop_tokens = {0};  // what the greedy choice among no numbers gives
  options.make_device = [&](const DeviceLimits& limits) {
    return std::make_unique<PoisonedDevice>(options.model, limits);
  };
  SimCluster cluster(options);
  const SequenceId id = cluster.Submit(request);
  ASSERT_TRUE(cluster.RunUntilEnded());
  EXPECT_EQ(cluster.result(id).status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(cluster.result(id).tokens, std::vector<uint32_t>{first_token});
  EXPECT_EQ(cluster.Leftovers(), "");
}

TEST_F(SimTest, RefusedPlansAreNamedAndHarmNobody) {
  SimOptions options = RandomOptions();
  options.node_pool_bytes = 16u << 20;  // the worker refuses, not the nodes, which may be one
  SimCluster cluster(options);
  SimRequest good = RandomRequest(random_, options.model);
  const SequenceId id = cluster.Submit(good);
  SimRequest bad = good;
  bad.prompt = {options.model.vocab_size};
  const SequenceId bad_token = cluster.Submit(bad);
  bad = good;
  bad.prompt.assign(5000, 0);
  const SequenceId too_long = cluster.Submit(bad);
  bad = good;
  bad.layout = {.all_resident = true};
  bad.max_tokens = 200'000;
  const SequenceId too_big = cluster.Submit(bad);
  ASSERT_TRUE(cluster.RunUntilEnded());
  EXPECT_EQ(cluster.result(bad_token).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cluster.result(too_long).status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_EQ(cluster.result(too_big).status.code(), absl::StatusCode::kResourceExhausted);
  ExpectSame(cluster.result(id), Reference(options, good));
  EXPECT_EQ(cluster.Leftovers(), "");
}

TEST_F(SimTest, AShardThatANodeLostFailsItsSequenceOnly) {
  SimOptions options = RandomOptions();
  std::vector<SimRequest> requests = RandomRequests(2, options.model);
  for (SimRequest& request : requests) {
    request.prompt.resize(150, 1);
    request.max_tokens = 60;
    request.layout = {.sink_tokens = 4, .window_tokens = 16, .block_tokens = 8};
  }
  SimCluster cluster(options);
  const SequenceId victim = cluster.Submit(requests[0]);
  const SequenceId other = cluster.Submit(requests[1]);
  while (cluster.result(victim).tokens.size() < 5) cluster.Turn();
  EXPECT_TRUE(cluster.server(0).DropOrphan(ShardId(1)));
  ASSERT_TRUE(cluster.RunUntilEnded());
  const SimResult& result = cluster.result(victim);
  EXPECT_EQ(result.status.code(), absl::StatusCode::kInternal);
  EXPECT_EQ(result.failed_node, "cpu-0");
  EXPECT_NE(result.status.message().find("unknown_shard"), std::string::npos) << result.status;
  ExpectPrefixOf(result, Reference(options, requests[0]));
  ExpectSame(cluster.result(other), Reference(options, requests[1]));
  EXPECT_EQ(cluster.Leftovers(), "");
}

// The same on the host device with a random model of a real family.
TEST_F(SimTest, HostDeviceAgreesWithItselfInAnyPlanAndBatch) {
  const TempDir dir;
  RandomModelOptions model;
  model.num_layers = 3;
  model.llama3_rope = true;
  model.seed = random_();
  WriteRandomModel(dir.path(), model);
  const auto weights = LoadModelWeights(dir.path());
  ASSERT_TRUE(weights.ok()) << weights.status();
  SimOptions options = RandomOptions();
  options.model.shape = (*weights)->config.attention;
  options.model.num_layers = model.num_layers;
  options.model.vocab_size = model.vocab_size;
  options.make_device = [&](const DeviceLimits& limits) { return *MakeHostDevice(*weights, limits, 1); };
  std::vector<SimRequest> requests = RandomRequests(8, options.model);
  for (SimRequest& request : requests) {
    request.kv_dtype = DType::kF32;
    request.remote_k_dtype = request.remote_v_dtype = DType::kUnset;
    for (uint32_t i = 0; i < request.max_tokens; ++i) request.forced_tokens.push_back(random_() % model.vocab_size);
  }
  SimCluster cluster(options);
  std::vector<SequenceId> ids;
  for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
  ASSERT_TRUE(cluster.RunUntilEnded());
  EXPECT_EQ(cluster.Leftovers(), "");
  for (size_t i = 0; i < requests.size(); ++i) {
    const SimResult& result = cluster.result(ids[i]);
    ExpectSame(result, Reference(options, requests[i]));
    SimRequest resident = requests[i];
    resident.layout = {.all_resident = true};
    const SimResult reference = Reference(options, resident);
    for (size_t t = 0; t < reference.logits.size(); ++t) {
      for (size_t v = 0; v < model.vocab_size; ++v) ASSERT_NEAR(result.logits[t][v], reference.logits[t][v], 1e-3);
    }
  }
}

// Each node on a thread of its own, in real time: for ThreadSanitizer, and the same bits as with one thread.
TEST_F(SimTest, NodesOnThreadsOfTheirOwnChangeNoBit) {
  for (int round = 0; round < 3; ++round) {
    SimOptions options = RandomOptions();
    options.faults.max_delay_polls = 2;
    options.faults.duplicate = 0.1;
    const std::vector<SimRequest> requests = RandomRequests(4, options.model);
    SimOptions threaded = options;
    threaded.threaded = true;
    SimCluster cluster(threaded);
    std::vector<SequenceId> ids;
    for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
    ASSERT_TRUE(cluster.RunUntilEnded());
    for (size_t i = 0; i < requests.size(); ++i) ExpectSame(cluster.result(ids[i]), Reference(options, requests[i]));
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

TEST_F(SimTest, AKilledNodeOnAThreadFailsItsSequencesOnly) {
  SimOptions options = RandomOptions();
  options.num_nodes = 3;
  const std::vector<SimRequest> requests = RandomRequests(4, options.model);
  SimOptions threaded = options;
  threaded.threaded = true;
  SimCluster cluster(threaded);
  std::vector<SequenceId> ids;
  for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
  for (int turn = 0; turn < 20; ++turn) cluster.Turn();
  cluster.Kill(1);
  ASSERT_TRUE(cluster.RunUntilEnded());
  for (size_t i = 0; i < requests.size(); ++i) {
    ExpectRightOrClearError(cluster, cluster.result(ids[i]), Reference(options, requests[i]));
  }
  EXPECT_EQ(cluster.Leftovers(), "");
}

}  // namespace
}  // namespace tributary

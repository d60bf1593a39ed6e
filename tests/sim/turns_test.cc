// Kept sequences: a conversation in turns has the logits that one request with all its tokens has.
#include <algorithm>
#include <random>
#include <vector>

#include "base/log.h"
#include "gtest/gtest.h"
#include "tests/sim/sim_cluster.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

#if defined(__SANITIZE_THREAD__) || defined(__SANITIZE_ADDRESS__)
constexpr int kRounds = 4;
#else
constexpr int kRounds = 12;
#endif

using Tokens = std::vector<uint32_t>;
using Logits = std::vector<std::vector<float>>;

// A first request and the turns after it, and what came of them.
struct Conversation {
  SimRequest first;
  std::vector<SimTurn> turns;

  SequenceId id;
  size_t num_done = 0;  // turns that have ended, the first one included
  std::vector<SimResult> results;

  size_t num_turns() const { return 1 + turns.size(); }
};

class TurnsTest : public testing::Test {
 protected:
  TurnsTest() { (void)InitLogging("turns", "error"); }

  uint32_t Draw(uint32_t low, uint32_t high) { return RandomInt<uint32_t>(random_, low, high); }

  Tokens RandomTokens(uint32_t count) {
    Tokens tokens(count);
    for (uint32_t& token : tokens) token = Draw(0, TinyModel().vocab_size - 1);
    return tokens;
  }

  SimOptions RandomOptions() {
    SimOptions options;
    options.seed = random_();
    options.model.seed = random_();
    options.num_nodes = Draw(1, 4);
    options.append_chunk_tokens = std::vector{1u, 3u, 8u, 8u, 8u, 20u}[Draw(0, 5)];
    options.max_batch = std::vector{2u, 8u, 16u}[Draw(0, 2)];
    return options;
  }

  WindowLayout RandomLayout() {
    const uint32_t block = Draw(1, 12);
    return {.sink_tokens = Draw(0, 1) == 0 ? 0 : Draw(1, 9),
            .window_tokens = block + Draw(0, 20),
            .block_tokens = block,
            .all_resident = Draw(0, 9) == 0};
  }

  SamplingParams RandomSampling() {
    switch (Draw(0, 3)) {
      case 0:
        return {.temperature = 0.9f, .top_p = 0.95f, .seed = random_()};
      case 1:
        return {.temperature = 0.9f,
                .seed = random_(),
                .min_p = 0.05f,
                .presence_penalty = 0.5f,
                .repetition_penalty = 1.3f,
                .logit_bias = {{1, 2.0f}}};
      default:
        return {};
    }
  }

  // Lengths of new prompts: none, one, below, at and beyond the window.
  uint32_t RandomAppend(const WindowLayout& layout) {
    const uint32_t window = layout.window_tokens;
    switch (Draw(0, 5)) {
      case 0:
        return 0;
      case 1:
        return 1;
      case 2:
        return Draw(1, window);
      case 3:
        return window;
      default:
        return window + Draw(1, 60);
    }
  }

  Conversation RandomConversation() {
    Conversation talk;
    SimRequest& first = talk.first;
    first.prompt = RandomTokens(Draw(1, 120));
    first.max_tokens = Draw(1, 30);
    first.layout = RandomLayout();
    first.cut = {Draw(1, 4), Draw(1, 3), Draw(1, 2), Draw(1, 2)};
    first.sampling = RandomSampling();
    first.keep = true;
    first.max_context_tokens = first.prompt.size() + first.max_tokens;
    talk.turns.resize(Draw(1, 4));
    for (SimTurn& turn : talk.turns) {
      turn.prompt = RandomTokens(RandomAppend(first.layout));
      turn.max_tokens = Draw(1, 20);
      turn.sampling = RandomSampling();
      turn.keep = &turn != &talk.turns.back() || Draw(0, 1) == 0;
      first.max_context_tokens += turn.prompt.size() + turn.max_tokens;
    }
    first.max_context_tokens += Draw(0, 1) * Draw(0, 40);
    return talk;
  }

  // Begins the next turn of each conversation that is between two, and ends those that are through.
  static void GoOn(SimCluster& cluster, std::vector<Conversation>& talks) {
    for (Conversation& talk : talks) {
      const SimResult& result = cluster.result(talk.id);
      if (talk.num_done == talk.num_turns() || !(result.kept || result.ended)) continue;
      talk.results.push_back(result);
      ++talk.num_done;
      if (talk.num_done < talk.num_turns()) {
        ASSERT_TRUE(result.kept) << result.status;
        cluster.Continue(talk.id, talk.turns[talk.num_done - 1]);
      } else if (result.kept) {
        cluster.Stop(talk.id);
      }
    }
  }

  static void Talk(SimCluster& cluster, std::vector<Conversation>& talks) {
    for (Conversation& talk : talks) talk.id = cluster.Submit(talk.first);
    const auto through = [](const Conversation& talk) { return talk.num_done == talk.num_turns(); };
    for (int turn = 0; turn < 200'000 && !std::all_of(talks.begin(), talks.end(), through); ++turn) {
      cluster.Turn();
      GoOn(cluster, talks);
    }
    ASSERT_TRUE(cluster.RunUntilEnded());
    for (const Conversation& talk : talks) ASSERT_TRUE(through(talk));
    EXPECT_EQ(cluster.Leftovers(), "");
  }

  // The conversation in a cluster of its own.
  static Conversation TalkAlone(const SimOptions& options, const Conversation& talk) {
    std::vector<Conversation> talks = {talk};
    SimCluster cluster(options);
    Talk(cluster, talks);
    return talks[0];
  }

  static SimResult RunAlone(const SimOptions& options, const SimRequest& request) {
    SimCluster cluster(options);
    const SequenceId id = cluster.Submit(request);
    EXPECT_TRUE(cluster.RunUntilEnded());
    EXPECT_TRUE(cluster.result(id).status.ok()) << cluster.result(id).status;
    return cluster.result(id);
  }

  // The tokens before turn `turn`'s answer: prompts and answers.
  static Tokens TokensBefore(const Conversation& talk, size_t turn) {
    Tokens tokens = talk.first.prompt;
    for (size_t t = 0; t < turn; ++t) {
      const Tokens& answer = talk.results[t].tokens;
      tokens.insert(tokens.end(), answer.begin(), answer.end());
      tokens.insert(tokens.end(), talk.turns[t].prompt.begin(), talk.turns[t].prompt.end());
    }
    return tokens;
  }

  const uint64_t seed_ = TestSeed();
  testing::ScopedTrace trace_{__FILE__, __LINE__, SeedTrace(seed_)};
  std::mt19937_64 random_{seed_};
};

// Every token after the first prompt fed by decode steps, one by one: the same bits.
TEST_F(TurnsTest, AppendedTokensAreBitwiseThoseOfDecodeSteps) {
  for (int round = 0; round < kRounds; ++round) {
    const SimOptions options = RandomOptions();
    const Conversation talk = TalkAlone(options, RandomConversation());
    SimRequest stepped = talk.first;
    stepped.keep = false;
    Tokens all = TokensBefore(talk, talk.turns.size());
    const Tokens& last_answer = talk.results.back().tokens;
    all.insert(all.end(), last_answer.begin(), last_answer.end());
    stepped.forced_tokens.assign(all.begin() + static_cast<ptrdiff_t>(talk.first.prompt.size()), all.end());
    stepped.max_tokens = static_cast<uint32_t>(stepped.forced_tokens.size());
    const SimResult steps = RunAlone(options, stepped);
    for (size_t t = 0; t < talk.num_turns(); ++t) {
      const SimResult& turn = talk.results[t];
      const size_t offset = TokensBefore(talk, t).size() - talk.first.prompt.size();
      ASSERT_EQ(turn.logits.size(), turn.tokens.size());
      for (size_t i = 0; i < turn.tokens.size(); ++i) {
        ASSERT_EQ(turn.logits[i], steps.logits[offset + i]) << "turn " << t << ", token " << i;
      }
    }
  }
}

TEST_F(TurnsTest, ATurnHasTheLogitsOfOneRequestWithTheWholePrompt) {
  for (int round = 0; round < kRounds; ++round) {
    const SimOptions options = RandomOptions();
    Conversation talk = RandomConversation();
    talk.first.kv_dtype = std::vector{DType::kF32, DType::kF32, DType::kBf16, DType::kF16}[Draw(0, 3)];
    talk = TalkAlone(options, talk);
    const size_t t = talk.turns.size();
    SimRequest whole = talk.first;
    whole.keep = false;
    whole.max_context_tokens = 0;
    whole.prompt = TokensBefore(talk, t);
    whole.forced_tokens = talk.results[t].tokens;
    whole.max_tokens = static_cast<uint32_t>(whole.forced_tokens.size());
    const SimResult result = RunAlone(options, whole);
    // As between a distributed and an all-resident run (sim_test.cc).
    const float tolerance = whole.kv_dtype == DType::kF32 ? 1e-4f : whole.kv_dtype == DType::kF16 ? 0.05f : 0.2f;
    for (size_t i = 0; i < result.logits.size(); ++i) {
      for (size_t v = 0; v < result.logits[i].size(); ++v) {
        ASSERT_NEAR(talk.results[t].logits[i][v], result.logits[i][v], tolerance) << "token " << i;
      }
    }
    const SequenceSummary& summary = talk.results[t].summary;
    EXPECT_EQ(summary.prompt_tokens, talk.turns.back().prompt.size());
    EXPECT_EQ(summary.generated_tokens, talk.turns.back().max_tokens);
    EXPECT_EQ(summary.context_tokens, whole.prompt.size() + whole.max_tokens);
    EXPECT_EQ(summary.resident_tokens + summary.remote_tokens, summary.context_tokens);
    EXPECT_EQ(summary.finish_reason, "length");
  }
}

TEST_F(TurnsTest, ConversationsBesideOthersAreBitwiseTheSameAsAlone) {
  for (int round = 0; round < kRounds / 3; ++round) {
    SimOptions options = RandomOptions();
    options.faults.max_delay_ns = Draw(0, 3) * kNsPerMs;
    options.faults.duplicate = 0.1;
    std::vector<Conversation> talks(Draw(2, 6));
    for (Conversation& talk : talks) talk = RandomConversation();
    SimOptions calm = options;
    calm.faults = {};
    std::vector<Conversation> alone;
    for (const Conversation& talk : talks) alone.push_back(TalkAlone(calm, talk));
    SimCluster cluster(options);
    Talk(cluster, talks);
    for (size_t i = 0; i < talks.size(); ++i) {
      for (size_t t = 0; t < talks[i].num_turns(); ++t) {
        ASSERT_EQ(talks[i].results[t].tokens, alone[i].results[t].tokens);
        ASSERT_EQ(talks[i].results[t].logits, alone[i].results[t].logits);
      }
    }
  }
}

// A policy that selects everything reads what dense reads, whatever it does when tokens are appended.
TEST_F(TurnsTest, HgcaThatKeepsEverythingHasTheBitsOfDense) {
  for (int round = 0; round < kRounds; ++round) {
    const SimOptions options = RandomOptions();
    Conversation talk = RandomConversation();
    const Conversation dense = TalkAlone(options, talk);
    talk.first.policy = *ResolvePolicy({.name = "hgca", .parameters = {{"beta", 0}, {"quality_sample_rate", 0.5}}}, {});
    const Conversation hgca = TalkAlone(options, talk);
    for (size_t t = 0; t < talk.num_turns(); ++t) {
      ASSERT_EQ(hgca.results[t].tokens, dense.results[t].tokens);
      ASSERT_EQ(hgca.results[t].logits, dense.results[t].logits);
    }
  }
}

// What a sparse conversation reads does not depend on what runs beside it, nor on the network; and an appended prompt
// changes what is selected.
TEST_F(TurnsTest, SparseConversationsAreBitwiseTheSameBesideOthers) {
  for (int round = 0; round < kRounds / 3; ++round) {
    SimOptions options = RandomOptions();
    options.faults.max_delay_ns = Draw(0, 3) * kNsPerMs;
    std::vector<Conversation> talks(Draw(2, 5));
    for (Conversation& talk : talks) {
      talk = RandomConversation();
      talk.first.policy = *ResolvePolicy({.name = "hgca", .parameters = {{"beta", 1.5}, {"keep_min", 1}}}, {});
    }
    SimOptions calm = options;
    calm.faults = {};
    std::vector<Conversation> alone;
    for (const Conversation& talk : talks) alone.push_back(TalkAlone(calm, talk));
    SimCluster cluster(options);
    Talk(cluster, talks);
    for (size_t i = 0; i < talks.size(); ++i) {
      for (size_t t = 0; t < talks[i].num_turns(); ++t) {
        ASSERT_EQ(talks[i].results[t].tokens, alone[i].results[t].tokens);
        ASSERT_EQ(talks[i].results[t].logits, alone[i].results[t].logits);
      }
    }
  }
}

// The first token of a turn comes from dense attention, all of it: as dense, of the same tokens before.
TEST_F(TurnsTest, AnAppendedPromptReadsEverything) {
  SimOptions options = RandomOptions();
  SimRequest request{.prompt = RandomTokens(150), .max_tokens = 1};
  request.layout = {.sink_tokens = 2, .window_tokens = 16, .block_tokens = 8};
  request.cut.num_stripes = 2;
  request.keep = true;
  request.max_context_tokens = 400;
  request.forced_tokens = {7};
  const SimTurn turn{.prompt = RandomTokens(90), .max_tokens = 6, .forced_tokens = RandomTokens(6)};
  std::vector<SimResult> results;
  for (const PolicyRequest& policy :
       {PolicyRequest{}, PolicyRequest{.name = "hgca", .parameters = {{"beta", 4}, {"keep_min", 1}}}}) {
    request.policy = *ResolvePolicy(policy, {});
    SimCluster cluster(options);
    const SequenceId id = cluster.Submit(request);
    ASSERT_TRUE(cluster.RunUntilEnded());
    cluster.Continue(id, turn);
    ASSERT_TRUE(cluster.RunUntilEnded());
    results.push_back(cluster.result(id));
    ASSERT_TRUE(results.back().status.ok()) << results.back().status;
    EXPECT_EQ(cluster.Leftovers(), "");
  }
  EXPECT_EQ(results[1].logits[0], results[0].logits[0]);
  EXPECT_NE(results[1].logits[1], results[0].logits[1]) << "the next token reads the selection";
  EXPECT_LT(results[1].summary.attended_tokens_mean, results[0].summary.attended_tokens_mean);
}

TEST_F(TurnsTest, ALongAppendStarvesNobody) {
  SimOptions options = RandomOptions();
  options.append_chunk_tokens = 4;
  SimCluster cluster(options);
  SimRequest request{.prompt = RandomTokens(20), .max_tokens = 1};
  request.layout = {.window_tokens = 16, .block_tokens = 8};
  request.keep = true;
  request.max_context_tokens = 1000;
  const SequenceId talker = cluster.Submit(request);
  ASSERT_TRUE(cluster.RunUntilEnded());
  const SequenceId other =
      cluster.Submit({.prompt = RandomTokens(5), .max_tokens = 60, .layout = {.all_resident = true}});
  while (cluster.result(other).tokens.empty()) cluster.Turn();
  cluster.Continue(talker, {.prompt = RandomTokens(800), .max_tokens = 1});
  // 801 tokens take some 200 chunks: every turn has one token for the other, and takes a chunk along.
  for (size_t turn = 2; turn <= 60; ++turn) {
    cluster.Turn();
    ASSERT_EQ(cluster.result(other).tokens.size(), turn);
    ASSERT_TRUE(cluster.result(talker).tokens.empty());
  }
  ASSERT_TRUE(cluster.RunUntilEnded());
  EXPECT_TRUE(cluster.result(talker).status.ok());
  EXPECT_EQ(cluster.Leftovers(), "");
}

// A node is lost between two turns, or while tokens are appended: the sequence ends with an error
// that names it, and nothing is left.
TEST_F(TurnsTest, ALostNodeEndsAKeptSequence) {
  for (int round = 0; round < 2 * kRounds; ++round) {
    SimOptions options = RandomOptions();
    SimCluster cluster(options);
    SimRequest request{.prompt = RandomTokens(100), .max_tokens = 3};
    request.layout = {.window_tokens = 16, .block_tokens = 8};
    request.cut.num_stripes = Draw(1, 4);
    request.keep = true;
    request.max_context_tokens = 600;
    const SequenceId id = cluster.Submit(request);
    ASSERT_TRUE(cluster.RunUntilEnded());
    ASSERT_TRUE(cluster.result(id).kept);
    const bool appending = round % 2 == 1;
    if (appending) {
      cluster.Continue(id, {.prompt = RandomTokens(300), .max_tokens = 2, .keep = true});
      for (uint32_t turns = Draw(0, 10); turns > 0; --turns) cluster.Turn();
    }
    const uint32_t lost = 0;  // holds the first shard, whatever the cut
    if (Draw(0, 1) == 0) {
      cluster.Kill(lost);
    } else {
      cluster.Cut(lost);
    }
    for (int turn = 0; turn < 20'000 && !cluster.result(id).ended; ++turn) cluster.Turn();
    const SimResult& result = cluster.result(id);
    ASSERT_TRUE(result.ended);
    EXPECT_FALSE(result.status.ok());
    EXPECT_EQ(result.failed_node, cluster.node_id(lost));
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

TEST_F(TurnsTest, StoppingLeavesNothing) {
  for (int round = 0; round < kRounds; ++round) {
    SimCluster cluster(RandomOptions());
    Conversation talk = RandomConversation();
    talk.first.layout = {.window_tokens = 8, .block_tokens = 4};
    talk.first.max_context_tokens = 1000;
    const SequenceId id = cluster.Submit(talk.first);
    ASSERT_TRUE(cluster.RunUntilEnded());
    ASSERT_TRUE(cluster.result(id).kept);
    if (round % 2 == 1) {
      cluster.Continue(id, {.prompt = RandomTokens(400), .max_tokens = 10, .keep = true});
      for (uint32_t turns = Draw(0, 80); turns > 0; --turns) cluster.Turn();
    }
    cluster.Stop(id);
    ASSERT_TRUE(cluster.result(id).ended);
    EXPECT_TRUE(absl::IsCancelled(cluster.result(id).status));
    EXPECT_EQ(cluster.Leftovers(), "");
  }
}

TEST_F(TurnsTest, ATurnBeyondTheReservationEndsWithBothNumbers) {
  SimCluster cluster(RandomOptions());
  SimRequest request{.prompt = RandomTokens(20), .max_tokens = 4};
  request.layout = {.window_tokens = 8, .block_tokens = 4};
  request.keep = true;
  request.max_context_tokens = 50;
  const SequenceId id = cluster.Submit(request);
  ASSERT_TRUE(cluster.RunUntilEnded());
  // 24 are there: 20 and 7 more would be 51.
  cluster.Continue(id, {.prompt = RandomTokens(20), .max_tokens = 7});
  ASSERT_TRUE(cluster.RunUntilEnded());
  const absl::Status& status = cluster.result(id).status;
  EXPECT_TRUE(absl::IsInvalidArgument(status)) << status;
  EXPECT_NE(status.message().find("need a context of 50; 49 are reserved"), std::string::npos) << status;
  EXPECT_EQ(cluster.Leftovers(), "");
}

}  // namespace
}  // namespace tributary

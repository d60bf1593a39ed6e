// Prompts that are prefilled at the same time: what each waits for, what they hold, and that no bit depends on it.
#include <algorithm>
#include <memory>
#include <vector>

#include "gtest/gtest.h"
#include "tests/sim/sim_fixture.h"

namespace tributary {
namespace {

using testing::ExpectSame;
using testing::Reference;

class PrefillTest : public testing::SimTest {
 protected:
  SimRequest Request(const TinyModel& model, size_t prompt_tokens) {
    SimRequest request = testing::RandomRequest(random_, model);
    request.prompt.resize(prompt_tokens, 1);
    request.layout = {.sink_tokens = 4, .window_tokens = 16, .block_tokens = 8};
    request.max_stall_ns = 60 * kNsPerS;
    return request;
  }
  // Turns of the engine until the request has its first token.
  static int TurnsToFirstToken(SimCluster& cluster, SequenceId id) {
    int turns = 0;
    for (; cluster.result(id).tokens.empty() && !cluster.result(id).ended && turns < 20'000; ++turns) cluster.Turn();
    EXPECT_FALSE(cluster.result(id).tokens.empty()) << cluster.result(id).status;
    return turns;
  }
};

// Counts the prompts that are under way, and their tokens.
class CountingDevice final : public TinyDevice {
 public:
  using TinyDevice::TinyDevice;
  absl::StatusOr<std::unique_ptr<Prefill>> BeginPrefill(std::span<const uint32_t> tokens, DType dtype) override {
    if (uint32_t(num_prefills()) >= room_for) return absl::ResourceExhaustedError("no memory for the prefill");
    auto prefill = TinyDevice::BeginPrefill(tokens, dtype);
    most_prefills = std::max(most_prefills, num_prefills());
    return prefill;
  }
  uint32_t room_for = 100;
  int most_prefills = 0;
};

TEST_F(PrefillTest, AShortPromptTakesTwiceItsTimeBehindALongOne) {
  const SimOptions options = RandomOptions();
  const SimRequest long_request = Request(options.model, 1700), short_request = Request(options.model, 40);
  SimCluster alone(options);
  const int turns_alone = TurnsToFirstToken(alone, alone.Submit(short_request));
  ASSERT_TRUE(alone.RunUntilEnded());

  SimCluster cluster(options);
  const SequenceId first = cluster.Submit(long_request);
  for (int i = 0; i < 3; ++i) cluster.Turn();
  const SequenceId second = cluster.Submit(short_request);
  // By turns; the long prompt's units are the larger ones, so the short one has more of them.
  EXPECT_LE(TurnsToFirstToken(cluster, second), 2 * turns_alone);
  EXPECT_TRUE(cluster.result(first).tokens.empty());
  ASSERT_TRUE(cluster.RunUntilEnded());
  ExpectSame(cluster.result(first), Reference(options, long_request));
  ExpectSame(cluster.result(second), Reference(options, short_request));
  EXPECT_EQ(cluster.Leftovers(), "");
}

TEST_F(PrefillTest, ShortPromptsDoNotHoldUpALongOneByMoreThanHalf) {
  const SimOptions options = RandomOptions();
  const SimRequest long_request = Request(options.model, 700);
  SimRequest short_request = Request(options.model, 60);
  short_request.max_tokens = 1;
  SimCluster cluster(options);
  const SequenceId id = cluster.Submit(long_request);
  // There is always another short one.
  SequenceId other = cluster.Submit(short_request);
  int num_short = 0;
  while (cluster.result(id).tokens.empty()) {
    cluster.Turn();
    if (!cluster.result(other).ended) continue;
    other = cluster.Submit(short_request);
    ASSERT_LT(++num_short, 40);  // 700 tokens are the work of about 12
  }
  EXPECT_GE(num_short, 1);
  ASSERT_TRUE(cluster.RunUntilEnded());
  ExpectSame(cluster.result(id), Reference(options, long_request));
}

TEST_F(PrefillTest, PromptsOfOneLengthFollowEachOther) {
  const SimOptions options = RandomOptions();
  SimRequest request = Request(options.model, 300);
  SimCluster cluster(options);
  std::vector<SequenceId> ids;
  for (int i = 0; i < 4; ++i) ids.push_back(cluster.Submit(request));
  for (size_t i = 0; i < ids.size(); ++i) {
    TurnsToFirstToken(cluster, ids[i]);
    if (i + 1 < ids.size()) {
      EXPECT_TRUE(cluster.result(ids[i + 1]).tokens.empty()) << i;
    }
  }
  ASSERT_TRUE(cluster.RunUntilEnded());
  EXPECT_EQ(cluster.Leftovers(), "");
}

TEST_F(PrefillTest, APromptWhoseNodeStandsStillHoldsUpNoOther) {
  SimOptions options = RandomOptions();
  options.num_nodes = 2;
  options.spill_window_bytes = 8 << 10;
  SimRequest stalled_request = Request(options.model, 600), other_request = Request(options.model, 80);
  stalled_request.cut = {};  // one shard, on cpu-0
  other_request.layout = {.all_resident = true};
  SimCluster cluster(options);
  const SequenceId stalled = cluster.Submit(stalled_request);
  for (int i = 0; i < 3; ++i) cluster.Turn();
  cluster.Freeze(0);
  const SequenceId other = cluster.Submit(other_request);
  const int64_t begin_ns = cluster.clock().NowNs();
  TurnsToFirstToken(cluster, other);
  EXPECT_LT(cluster.clock().NowNs() - begin_ns, 100 * kNsPerMs);
  EXPECT_FALSE(cluster.result(stalled).ended);
  EXPECT_TRUE(cluster.result(stalled).tokens.empty());
  cluster.Thaw(0);
  ASSERT_TRUE(cluster.RunUntilEnded());
  ExpectSame(cluster.result(stalled), Reference(options, stalled_request));
  ExpectSame(cluster.result(other), Reference(options, other_request));
  EXPECT_EQ(cluster.Leftovers(), "");
}

TEST_F(PrefillTest, PromptsTogetherStayWithinTheDevicesMemory) {
  SimOptions options = RandomOptions();
  options.max_prefill_tokens = 400;  // together 450
  CountingDevice* device = nullptr;
  options.make_device = [&](const DeviceLimits& limits) {
    auto counting = std::make_unique<CountingDevice>(options.model, limits);
    device = counting.get();
    return counting;
  };
  const auto run = [&](std::vector<size_t> lengths, uint32_t room_for) {
    SimCluster cluster(options);
    device->room_for = room_for;
    std::vector<SequenceId> ids;
    std::vector<SimRequest> requests;
    for (const size_t length : lengths) requests.push_back(Request(options.model, length));
    for (const SimRequest& request : requests) ids.push_back(cluster.Submit(request));
    EXPECT_TRUE(cluster.RunUntilEnded());
    EXPECT_EQ(cluster.Leftovers(), "");
    const int most = device->most_prefills;
    for (size_t i = 0; i < ids.size(); ++i) ExpectSame(cluster.result(ids[i]), Reference(options, requests[i]));
    return most;
  };
  EXPECT_EQ(run({400, 30, 15}, 100), 2);    // beside the longest one, one shorter one after the other
  EXPECT_EQ(run({300, 200, 260}, 100), 1);  // no two of them fit
  EXPECT_EQ(run({300, 40, 20}, 1), 1);      // the device has less than it said: they wait
}

}  // namespace
}  // namespace tributary

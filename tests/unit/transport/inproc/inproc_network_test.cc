#include "transport/inproc/inproc_network.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <atomic>
#include <numeric>
#include <set>
#include <thread>

#include "base/limits.h"
#include "tests/unit/transport/test_plane.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

class InprocNetworkTest : public ::testing::Test {
 protected:
  InprocNetworkTest() : network_(seed_, &clock_), a_(network_.Create("a")), b_(network_.Create("b")) {
    a_to_b_ = *a_->Connect("b");
    b_to_a_ = *b_->Connect("a");
  }

  const uint64_t seed_ = TestSeed();
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, "seed " + std::to_string(seed_)};
  ManualClock clock_;
  InprocNetwork network_;
  std::unique_ptr<DataPlane> a_, b_;
  PeerId a_to_b_, b_to_a_;
  RecordingHandler at_a_, at_b_;
};

TEST_F(InprocNetworkTest, DeliversBytesInOrderAndCounts) {
  for (const size_t payload_bytes : {size_t{0}, size_t{1}, size_t{64}, size_t{1} << 20}) {
    ASSERT_TRUE(SendNumbered(*a_, a_to_b_, payload_bytes + 1, payload_bytes).ok());
  }
  EXPECT_EQ(b_->Poll(at_b_), 4);
  EXPECT_EQ(b_->Poll(at_b_), 0);
  ASSERT_THAT(at_b_.seqs(), ElementsAre(1, 2, 65, (1 << 20) + 1));
  EXPECT_EQ(at_b_.frames[2].payload, std::string(64, 65));
  EXPECT_EQ(at_b_.frames[3].payload, std::string(1 << 20, 1));
  EXPECT_EQ(a_->counters().frames_sent, 4u);
  EXPECT_EQ(a_->counters().bytes_sent, 4 * 64 + 65 + (1u << 20));
  EXPECT_EQ(b_->counters().bytes_received, a_->counters().bytes_sent);
  EXPECT_EQ(b_->counters().frames_received, 4u);
}

TEST_F(InprocNetworkTest, FrameIsAlignedAndReceivedSpanIsNot) {
  absl::StatusOr<FrameBuffer> frame = a_->AllocateFrame(100);
  ASSERT_TRUE(frame.ok());
  EXPECT_EQ(reinterpret_cast<uintptr_t>(&frame->header()) % 64, 0u);
  EXPECT_EQ(reinterpret_cast<uintptr_t>(frame->payload().data()) % 64, 0u);
  EXPECT_EQ(frame->header().magic, kFrameMagic);
}

TEST_F(InprocNetworkTest, AllocationIsBounded) {
  auto small = network_.Create("small", {.max_frames_in_flight = 2});
  const PeerId to_b = *small->Connect("b");
  ASSERT_TRUE(SendNumbered(*small, to_b, 1).ok());
  {
    absl::StatusOr<FrameBuffer> held = NumberedFrame(*small, 2);
    ASSERT_TRUE(held.ok());
    EXPECT_EQ(small->AllocateFrame(1).status().code(), absl::StatusCode::kResourceExhausted);
  }
  EXPECT_TRUE(SendNumbered(*small, to_b, 3).ok());
  EXPECT_FALSE(small->AllocateFrame(1).ok());
  b_->Poll(at_b_);
  EXPECT_THAT(at_b_.seqs(), ElementsAre(1, 3));
  EXPECT_TRUE(small->AllocateFrame(1).ok());
  EXPECT_EQ(small->AllocateFrame(limits::kMaxFramePayloadBytes + 1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

TEST_F(InprocNetworkTest, HandlerMaySend) {
  class Echo : public FrameHandler {
   public:
    Echo(DataPlane& plane, PeerId peer) : plane_(plane), peer_(peer) {}
    void OnFrame(std::span<const std::byte>, std::span<const std::byte> payload) override {
      EXPECT_TRUE(SendNumbered(plane_, peer_, 7, payload.size()).ok());
    }
    void OnPeerError(PeerId, const absl::Status&) override {}

   private:
    DataPlane& plane_;
    PeerId peer_;
  } echo(*b_, b_to_a_);
  ASSERT_TRUE(SendNumbered(*a_, a_to_b_, 1).ok());
  b_->Poll(echo);
  a_->Poll(at_a_);
  EXPECT_THAT(at_a_.seqs(), ElementsAre(7));
}

// What happens on a link, from one seed.
struct RunResult {
  std::vector<ReceivedFrame> frames;
  InprocStats stats;
  friend bool operator==(const RunResult&, const RunResult&) = default;
};

RunResult FaultyRun(uint64_t seed) {
  ManualClock clock;
  InprocNetwork network(seed, &clock);
  auto a = network.Create("a");
  auto b = network.Create("b");
  network.SetFaults(
      {.loss = 0.1, .duplicate = 0.1, .corrupt = 0.1, .min_delay_ns = 100, .max_delay_ns = 5000, .max_delay_polls = 3});
  const PeerId to_b = *a->Connect("b");
  RecordingHandler handler;
  for (uint64_t seq = 1; seq <= 500; ++seq) {
    EXPECT_TRUE(SendNumbered(*a, to_b, seq, seq % 100).ok());
    clock.AdvanceNs(50);
    b->Poll(handler);
  }
  while (network.frames_in_transit() > 0) {
    clock.AdvanceNs(1000);
    b->Poll(handler);
  }
  return {handler.frames, network.stats()};
}

TEST(InprocFaultsTest, OneSeedReplaysOneRun) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  const RunResult run = FaultyRun(seed);
  EXPECT_TRUE(run == FaultyRun(seed));
  EXPECT_FALSE(run == FaultyRun(seed + 1));
}

TEST(InprocFaultsTest, EachFaultHappensAboutAsOftenAsAsked) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  const RunResult run = FaultyRun(seed);
  // 500 draws at 0.1: 50 +- 6.7; six standard deviations.
  EXPECT_NEAR(static_cast<double>(run.stats.lost), 50, 41);
  EXPECT_NEAR(static_cast<double>(run.stats.duplicated), 45, 39);
  EXPECT_NEAR(static_cast<double>(run.stats.corrupted), 45, 39);
  EXPECT_EQ(run.frames.size(), 500 - run.stats.lost + run.stats.duplicated);
  EXPECT_EQ(run.frames.size(), run.stats.delivered);
  std::vector<uint64_t> seqs;
  for (const auto& frame : run.frames) seqs.push_back(frame.seq());
  EXPECT_FALSE(std::is_sorted(seqs.begin(), seqs.end()));
}

TEST_F(InprocNetworkTest, CorruptionFlipsOneBit) {
  network_.SetFaults({.corrupt = 1});
  ASSERT_TRUE(SendNumbered(*a_, a_to_b_, 5, 16).ok());
  network_.SetFaults({});
  ASSERT_TRUE(SendNumbered(*a_, a_to_b_, 5, 16).ok());
  b_->Poll(at_b_);
  ASSERT_THAT(at_b_.frames, SizeIs(2));
  const std::string bad = at_b_.frames[0].header + at_b_.frames[0].payload;
  const std::string good = at_b_.frames[1].header + at_b_.frames[1].payload;
  int flipped = 0;
  for (size_t i = 0; i < good.size(); ++i) {
    flipped += __builtin_popcount(static_cast<unsigned char>(bad[i] ^ good[i]));
  }
  EXPECT_EQ(flipped, 1);
}

// Every place is hit, in header and payload, by bursts of every length, and never more than one burst in a frame.
TEST_F(InprocNetworkTest, CorruptionMayChangeABurst) {
  constexpr uint32_t kMaxBits = 64;
  ASSERT_TRUE(SendNumbered(*a_, a_to_b_, 5, 16).ok());
  b_->Poll(at_b_);
  const std::string good = at_b_.frames[0].header + at_b_.frames[0].payload;
  at_b_.frames.clear();
  network_.SetFaults({.corrupt = 1, .max_burst_bits = kMaxBits});
  std::set<size_t> lengths, bytes;
  for (int round = 0; round < 3000; ++round) {
    ASSERT_TRUE(SendNumbered(*a_, a_to_b_, 5, 16).ok());
    b_->Poll(at_b_);
    const std::string bad = at_b_.frames[0].header + at_b_.frames[0].payload;
    at_b_.frames.clear();
    size_t first = good.size() * 8, last = 0;
    for (size_t bit = 0; bit < good.size() * 8; ++bit) {
      if ((((bad[bit / 8] ^ good[bit / 8]) >> (bit % 8)) & 1) == 0) continue;
      first = std::min(first, bit);
      last = bit;
      bytes.insert(bit / 8);
    }
    ASSERT_LE(first, last) << "nothing changed";
    lengths.insert(last - first + 1);
  }
  EXPECT_EQ(lengths.size(), kMaxBits);
  EXPECT_EQ(*lengths.rbegin(), kMaxBits);
  EXPECT_EQ(bytes.size(), good.size());
  EXPECT_EQ(network_.stats().corrupted, 3000u);
  EXPECT_GT(network_.stats().corrupted_headers, 1500u) << "most of a small frame is header";
  EXPECT_LT(network_.stats().corrupted_headers, 3000u);
}

TEST_F(InprocNetworkTest, OrderedLinkKeepsOrderUnderDelay) {
  network_.SetFaults({.max_delay_ns = 5000, .max_delay_polls = 4, .ordered = true});
  std::vector<uint64_t> sent(100);
  std::iota(sent.begin(), sent.end(), 1);
  for (const uint64_t seq : sent) ASSERT_TRUE(SendNumbered(*a_, a_to_b_, seq).ok());
  while (network_.frames_in_transit() > 0) {
    if (const auto next_ns = network_.NextDeliveryNs()) clock_.AdvanceNs(*next_ns - clock_.NowNs());
    b_->Poll(at_b_);
  }
  EXPECT_EQ(at_b_.seqs(), sent);
}

TEST_F(InprocNetworkTest, DelayFollowsTheClock) {
  network_.SetLinkFaults("a", "b", {.min_delay_ns = 1000, .max_delay_ns = 1000});
  ASSERT_TRUE(SendNumbered(*a_, a_to_b_, 1).ok());
  ASSERT_TRUE(SendNumbered(*b_, b_to_a_, 2).ok());
  EXPECT_EQ(a_->Poll(at_a_), 1);  // the other direction has no fault
  clock_.AdvanceNs(999);
  EXPECT_EQ(b_->Poll(at_b_), 0);
  EXPECT_EQ(network_.NextDeliveryNs(), clock_.NowNs() + 1);
  clock_.AdvanceNs(1);
  EXPECT_EQ(network_.NextDeliveryNs(), std::nullopt);
  EXPECT_EQ(b_->Poll(at_b_), 1);
}

TEST_F(InprocNetworkTest, KillTellsPeersOnceAndLosesFrames) {
  ASSERT_TRUE(SendNumbered(*a_, a_to_b_, 1).ok());
  ASSERT_TRUE(SendNumbered(*b_, b_to_a_, 2).ok());
  network_.Kill("b");
  EXPECT_TRUE(SendNumbered(*a_, a_to_b_, 3).ok()) << "the error is not yet known";
  EXPECT_EQ(a_->Poll(at_a_), 1);
  EXPECT_EQ(a_->Poll(at_a_), 0);
  EXPECT_EQ(b_->Poll(at_b_), 0);
  EXPECT_THAT(at_a_.frames, IsEmpty());
  ASSERT_THAT(at_a_.errors, SizeIs(1));
  EXPECT_EQ(at_a_.errors[0].first, a_to_b_);
  EXPECT_EQ(at_a_.errors[0].second.code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(at_a_.errors[0].second.message()), HasSubstr("'b'"));
  EXPECT_EQ(SendNumbered(*a_, a_to_b_, 4).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(SendNumbered(*b_, b_to_a_, 4).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(network_.stats().lost, 3u);
  EXPECT_EQ(a_->counters().endpoint_errors, 1u);
}

TEST_F(InprocNetworkTest, RestartedPeerIsAnotherPeer) {
  network_.Kill("b");
  auto b2 = network_.Create("b");
  a_->Poll(at_a_);
  EXPECT_FALSE(SendNumbered(*a_, a_to_b_, 1).ok());
  const PeerId a_to_b2 = *a_->Connect("b");
  EXPECT_NE(a_to_b2, a_to_b_);
  EXPECT_TRUE(SendNumbered(*a_, a_to_b2, 2).ok());
  b2->Poll(at_b_);
  EXPECT_THAT(at_b_.seqs(), ElementsAre(2));
}

TEST_F(InprocNetworkTest, DestructionIsDeath) {
  b_.reset();
  a_->Poll(at_a_);
  EXPECT_THAT(at_a_.errors, SizeIs(1));
}

TEST_F(InprocNetworkTest, UnknownAddressShowsAsPeerError) {
  EXPECT_EQ(a_->Connect("").status().code(), absl::StatusCode::kInvalidArgument);
  const absl::StatusOr<PeerId> nobody = a_->Connect("nobody");
  ASSERT_TRUE(nobody.ok());
  EXPECT_TRUE(SendNumbered(*a_, *nobody, 1).ok());
  a_->Poll(at_a_);
  ASSERT_THAT(at_a_.errors, SizeIs(1));
  EXPECT_EQ(at_a_.errors[0].first, *nobody);
}

TEST_F(InprocNetworkTest, DisconnectDropsAndSilences) {
  ASSERT_TRUE(SendNumbered(*a_, a_to_b_, 1).ok());
  a_->Disconnect(a_to_b_);
  a_->Disconnect(a_to_b_);  // unknown by now: ignored
  network_.Kill("b");
  EXPECT_EQ(a_->Poll(at_a_), 0);
  EXPECT_THAT(at_a_.errors, IsEmpty());
  EXPECT_EQ(SendNumbered(*a_, a_to_b_, 2).code(), absl::StatusCode::kUnavailable);
  EXPECT_EQ(network_.frames_in_transit(), 0u);
}

TEST_F(InprocNetworkTest, FrozenNodeIsSilentUntilThawed) {
  network_.Freeze("b");
  ASSERT_TRUE(SendNumbered(*a_, a_to_b_, 1).ok());
  ASSERT_TRUE(SendNumbered(*b_, b_to_a_, 2).ok());
  EXPECT_EQ(b_->Poll(at_b_), 0);
  EXPECT_EQ(a_->Poll(at_a_), 0);
  EXPECT_EQ(network_.frames_in_transit(), 2u);
  network_.Thaw("b");
  EXPECT_EQ(b_->Poll(at_b_), 1);
  EXPECT_EQ(a_->Poll(at_a_), 1);
  EXPECT_THAT(at_a_.errors, IsEmpty());
}

TEST_F(InprocNetworkTest, CutLinkFailsBothEndsAndMayBeConnectedAgain) {
  ASSERT_TRUE(SendNumbered(*a_, a_to_b_, 1).ok());
  network_.Cut("a", "b");
  a_->Poll(at_a_);
  b_->Poll(at_b_);
  EXPECT_THAT(at_b_.frames, IsEmpty());
  EXPECT_THAT(at_a_.errors, SizeIs(1));
  EXPECT_THAT(at_b_.errors, SizeIs(1));
  ASSERT_TRUE(SendNumbered(*a_, *a_->Connect("b"), 2).ok());
  b_->Poll(at_b_);
  EXPECT_THAT(at_b_.seqs(), ElementsAre(2));
}

TEST_F(InprocNetworkTest, DisconnectFaultBreaksTheLink) {
  network_.SetFaults({.disconnect = 1});
  ASSERT_TRUE(SendNumbered(*a_, a_to_b_, 1).ok());
  a_->Poll(at_a_);
  b_->Poll(at_b_);
  EXPECT_THAT(at_a_.errors, SizeIs(1));
  EXPECT_THAT(at_b_.errors, SizeIs(1));
  EXPECT_EQ(network_.stats().disconnected, 1u);
}

// Two echoing planes, each with its own thread, and a third thread that wakes them.
TEST(InprocThreadsTest, EveryFrameArrivesOnceAcrossThreads) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  constexpr uint64_t kFrames = 2000;
  RealClock clock;
  InprocNetwork network(seed, &clock);
  network.SetFaults({.max_delay_ns = 20 * kNsPerUs, .max_delay_polls = 2});
  auto a = network.Create("a", {.max_frames_in_flight = 64});
  auto b = network.Create("b", {.max_frames_in_flight = 64});
  std::atomic<bool> stop{false};
  std::thread receiver([&] {
    struct Echo : FrameHandler {
      DataPlane* plane;
      PeerId peer;
      void OnFrame(std::span<const std::byte> header, std::span<const std::byte>) override {
        FrameHeader decoded;
        std::memcpy(&decoded, header.data(), sizeof(decoded));
        EXPECT_TRUE(SendNumbered(*plane, peer, decoded.frame_seq).ok());
      }
      void OnPeerError(PeerId, const absl::Status&) override {}
    } echo;
    echo.plane = b.get();
    echo.peer = *b->Connect("a");
    while (!stop) {
      if (b->Poll(echo) == 0) b->WaitForEvent(kNsPerMs);
    }
  });
  std::thread waker([&] {
    while (!stop) {
      a->Wake();
      b->Wake();
      std::this_thread::yield();
    }
  });
  RecordingHandler handler;
  const PeerId to_b = *a->Connect("b");
  uint64_t sent = 0;
  while (handler.frames.size() < kFrames) {
    if (sent < kFrames && sent - handler.frames.size() < 32) {
      ASSERT_TRUE(SendNumbered(*a, to_b, ++sent).ok());
    } else if (a->Poll(handler) == 0) {
      a->WaitForEvent(kNsPerMs);
    }
  }
  stop = true;
  receiver.join();
  waker.join();
  const std::vector<uint64_t> seqs = handler.seqs();
  EXPECT_EQ(std::set<uint64_t>(seqs.begin(), seqs.end()).size(), kFrames);
}

TEST(InprocThreadsTest, WakeEndsAWait) {
  RealClock clock;
  InprocNetwork network(TestSeed(), &clock);
  auto plane = network.Create("a");
  plane->Wake();
  // Without Wake() none is shorter than a millisecond; with it some are longer on a busy machine.
  int num_short = 0;
  for (int i = 0; i < 50; ++i) {
    const int64_t start_ns = clock.NowNs();
    plane->Wake();
    plane->WaitForEvent(kNsPerS);
    num_short += clock.NowNs() - start_ns < kNsPerMs ? 1 : 0;
  }
  EXPECT_GT(num_short, 25);
}

}  // namespace
}  // namespace tributary

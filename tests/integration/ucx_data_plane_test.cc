#include "transport/ucx/ucx_data_plane.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstring>
#include <functional>
#include <map>
#include <random>
#include <set>
#include <thread>

#include "absl/strings/escaping.h"
#include "base/limits.h"
#include "tests/unit/transport/test_plane.h"
#include "transport/idle_strategy.h"
#include "transport/ucx/ucx_address.h"
#include "transport/ucx/ucx_context.h"
#include "transport/ucx/ucx_worker.h"

#if defined(__SANITIZE_ADDRESS__)
// UCX 1.13 forgets a few bytes when it connects to shared memory that is gone
// (AddressOfADeadProcess...).
extern "C" const char* __lsan_default_suppressions() { return "leak:libuct.so"; }
#endif

namespace tributary {
namespace {

using ::testing::HasSubstr;
using ::testing::IsEmpty;
using ::testing::SizeIs;

constexpr int64_t kPatienceNs = 20 * kNsPerS;

// ucx_echo_peer as a child process.
class EchoPeer {
 public:
  explicit EchoPeer(const std::string& tls, size_t recv_arena_bytes = 64 << 20) {
    int to_child[2], from_child[2];
    EXPECT_EQ(pipe(to_child), 0);
    EXPECT_EQ(pipe(from_child), 0);
    const std::string arena = std::to_string(recv_arena_bytes);
    pid_ = fork();
    if (pid_ == 0) {
      dup2(to_child[0], STDIN_FILENO);
      dup2(from_child[1], STDOUT_FILENO);
      for (const int fd : {to_child[0], to_child[1], from_child[0], from_child[1]}) close(fd);
      execl(UCX_ECHO_PEER, UCX_ECHO_PEER, tls.c_str(), arena.c_str(), nullptr);
      _exit(127);
    }
    close(to_child[0]);
    close(from_child[1]);
    to_child_ = to_child[1];
    std::string line;
    char c = 0;
    while (read(from_child[0], &c, 1) == 1 && c != '\n') line.push_back(c);
    close(from_child[0]);
    address_ = absl::HexStringToBytes(line);
    EXPECT_FALSE(address_.empty());
  }
  ~EchoPeer() {
    close(to_child_);
    Signal(SIGCONT);
    if (pid_ > 0) waitpid(pid_, nullptr, 0);
  }

  void ConnectTo(const std::string& address) {
    const std::string line = absl::BytesToHexString(address) + "\n";
    ASSERT_EQ(write(to_child_, line.data(), line.size()), static_cast<ssize_t>(line.size()));
  }
  void Signal(int signal) {
    if (pid_ > 0) kill(pid_, signal);
  }
  void Kill() {
    Signal(SIGKILL);
    waitpid(pid_, nullptr, 0);
    pid_ = -1;
  }
  const std::string& address() const { return address_; }

 private:
  pid_t pid_ = -1;
  int to_child_ = -1;
  std::string address_;
};

class UcxDataPlaneTest : public ::testing::TestWithParam<std::string> {
 protected:
  void SetUp() override {
    UcxOptions options;
    options.tls = GetParam();
    options.send_arena_bytes = 32 << 20;
    options.recv_arena_bytes = 32 << 20;
    MakePlane(options);
  }
  void MakePlane(const UcxOptions& options) {
    plane_.reset();
    auto plane = MakeUcxDataPlane(options);
    ASSERT_TRUE(plane.ok()) << plane.status();
    plane_ = *std::move(plane);
  }

  PeerId ConnectBothWays(EchoPeer& peer) {
    peer.ConnectTo(plane_->info().address);
    const absl::StatusOr<PeerId> id = plane_->Connect(peer.address());
    EXPECT_TRUE(id.ok()) << id.status();
    return id.value_or(PeerId());
  }

  // Polls until `done` or the patience ends; returns done().
  bool PollUntil(const std::function<bool()>& done, int64_t patience_ns = kPatienceNs) {
    const RealClock clock;
    const int64_t deadline_ns = clock.NowNs() + patience_ns;
    while (!done()) {
      if (clock.NowNs() > deadline_ns) return false;
      if (plane_->Poll(handler_) == 0) plane_->WaitForEvent(kNsPerMs);
    }
    return true;
  }

  // Sends a frame with random payload; flags as ucx_echo_peer reads them.
  absl::Status SendRandom(PeerId peer, uint64_t seq, size_t payload_bytes, uint16_t flags) {
    absl::StatusOr<FrameBuffer> frame = NumberedFrame(*plane_, seq, payload_bytes);
    if (!frame.ok()) return frame.status();
    frame->header().flags = flags;
    for (std::byte& byte : frame->payload()) byte = static_cast<std::byte>(random_());
    sent_[seq] = std::string(reinterpret_cast<const char*>(frame->payload().data()), payload_bytes);
    return plane_->Send(peer, *std::move(frame), flags == 1 ? SendClass::kBulk : SendClass::kEager);
  }

  void ExpectEchoes() {
    ASSERT_TRUE(PollUntil([&] { return handler_.frames.size() >= sent_.size(); }))
        << handler_.frames.size() << " of " << sent_.size() << " frames came back";
    for (const ReceivedFrame& frame : handler_.frames) {
      ASSERT_EQ(frame.header.size(), kFrameHeaderBytes);
      ASSERT_TRUE(sent_.contains(frame.seq())) << frame.seq();
      EXPECT_TRUE(frame.payload == sent_[frame.seq()]) << "frame " << frame.seq();
    }
    EXPECT_EQ(handler_.frames.size(), sent_.size());
    EXPECT_THAT(handler_.errors, IsEmpty());
    EXPECT_TRUE(PollUntil([&] { return plane_->pool_usage().send_used_bytes == 0; }));
    EXPECT_EQ(plane_->pool_usage().recv_used_bytes, 0u);
  }

  const uint64_t seed_ = TestSeed();
  ::testing::ScopedTrace trace_{__FILE__, __LINE__, "seed " + std::to_string(seed_)};
  std::minstd_rand random_{static_cast<uint32_t>(seed_)};
  std::unique_ptr<UcxDataPlane> plane_;
  RecordingHandler handler_;
  std::map<uint64_t, std::string> sent_;
};

TEST_P(UcxDataPlaneTest, SaysWhatItIs) {
  EXPECT_EQ(plane_->info().name, "ucx");
  EXPECT_THAT(plane_->info().release, ::testing::MatchesRegex("[0-9]+\\.[0-9]+\\.[0-9]+"));
  EXPECT_EQ(plane_->info().transports, GetParam());
}

TEST_P(UcxDataPlaneTest, RoundTripOfEverySize) {
  EchoPeer peer(GetParam());
  const PeerId id = ConnectBothWays(peer);
  uint64_t seq = 0;
  for (const size_t payload_bytes : {0, 1, 64, 4 << 10, 64 << 10, 1 << 20, 8 << 20}) {
    for (const uint16_t flags : {0, 1}) {
      while (true) {
        const absl::Status status = SendRandom(id, seq + 1, payload_bytes, flags);
        if (status.ok()) break;
        ASSERT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
        plane_->Poll(handler_);
      }
      ++seq;
    }
  }
  ExpectEchoes();
  EXPECT_EQ(plane_->counters().frames_sent, 14u);
  EXPECT_EQ(plane_->counters().bytes_received, plane_->counters().bytes_sent);
}

// Before the two sides have finished connecting.
TEST_P(UcxDataPlaneTest, FirstFrameMayBeLarge) {
  for (const uint16_t flags : {0, 1}) {
    EchoPeer peer(GetParam());
    const PeerId id = ConnectBothWays(peer);
    for (uint64_t i = 1; i <= 3; ++i) {
      ASSERT_TRUE(SendRandom(id, flags * 10 + i, 1 << 20, flags).ok());
    }
    ExpectEchoes();
    plane_->Disconnect(id);
  }
}

TEST_P(UcxDataPlaneTest, KilledPeerIsReportedOnce) {
  EchoPeer peer(GetParam());
  const PeerId id = ConnectBothWays(peer);
  ASSERT_TRUE(SendRandom(id, 1, 1000, 0).ok());
  ExpectEchoes();
  peer.Kill();
  EXPECT_TRUE(PollUntil([&] { return !handler_.errors.empty(); }, 3 * kNsPerS));
  ASSERT_THAT(handler_.errors, SizeIs(1));
  EXPECT_EQ(handler_.errors[0].first, id);
  EXPECT_EQ(handler_.errors[0].second.code(), absl::StatusCode::kUnavailable) << handler_.errors[0].second;
  EXPECT_EQ(SendRandom(id, 2, 10, 0).code(), absl::StatusCode::kUnavailable);
  EXPECT_TRUE(PollUntil([&] { return plane_->pool_usage().num_closing_peers == 0; }));
  EXPECT_THAT(handler_.errors, SizeIs(1));
  EXPECT_EQ(plane_->counters().endpoint_errors, 1u);
}

TEST_P(UcxDataPlaneTest, PeerKilledAmidBulkFramesLeavesNoBufferBehind) {
  EchoPeer peer(GetParam());
  const PeerId id = ConnectBothWays(peer);
  for (uint64_t seq = 1; seq <= 20; ++seq) ASSERT_TRUE(SendRandom(id, seq, 1 << 20, 1).ok());
  ASSERT_TRUE(PollUntil([&] { return handler_.frames.size() >= 3; }));
  peer.Kill();
  EXPECT_TRUE(PollUntil([&] { return !handler_.errors.empty(); }, 3 * kNsPerS));
  EXPECT_TRUE(PollUntil([&] { return plane_->pool_usage().send_used_bytes == 0; }, 5 * kNsPerS))
      << plane_->pool_usage().send_used_bytes;
  EXPECT_TRUE(PollUntil([&] { return plane_->pool_usage().recv_used_bytes == 0; }, 5 * kNsPerS))
      << plane_->pool_usage().recv_used_bytes;
  EXPECT_EQ(plane_->pool_usage().num_closing_peers, 0u);
}

TEST_P(UcxDataPlaneTest, PeerKilledWhileItsFramesWaitForRoomLeavesNoBufferBehind) {
  UcxOptions options;
  options.tls = GetParam();
  options.recv_arena_bytes = 3 << 20;  // room for one of the frames
  MakePlane(options);
  EchoPeer peer(GetParam());
  const PeerId id = ConnectBothWays(peer);
  for (uint64_t seq = 1; seq <= 20; ++seq) ASSERT_TRUE(SendRandom(id, seq, 2 << 20, 1).ok());
  ASSERT_TRUE(PollUntil([&] { return handler_.frames.size() >= 3; }));
  peer.Kill();
  EXPECT_TRUE(PollUntil([&] { return !handler_.errors.empty(); }, 3 * kNsPerS));
  EXPECT_TRUE(PollUntil(
      [&] {
        const UcxPoolUsage usage = plane_->pool_usage();
        return usage.send_used_bytes + usage.recv_used_bytes + usage.num_deferred_receives == 0;
      },
      5 * kNsPerS))
      << plane_->pool_usage().send_used_bytes << " " << plane_->pool_usage().recv_used_bytes << " "
      << plane_->pool_usage().num_deferred_receives;
}

// Both sides of a pair disconnect and connect again, without a restart: what a new session does.
TEST_P(UcxDataPlaneTest, LivePeerIsLeftAndReachedAgain) {
  UcxOptions options;
  options.tls = GetParam();
  auto other = MakeUcxDataPlane(options);
  ASSERT_TRUE(other.ok());
  RecordingHandler at_other;
  for (uint64_t round = 1; round <= 5; ++round) {
    const auto to_other = plane_->Connect((*other)->info().address);
    const auto from_other = (*other)->Connect(plane_->info().address);
    ASSERT_TRUE(to_other.ok() && from_other.ok());
    ASSERT_TRUE(SendNumbered(*plane_, *to_other, round).ok());
    ASSERT_TRUE(SendNumbered(**other, *from_other, round).ok());
    ASSERT_TRUE(PollUntil([&] {
      (*other)->Poll(at_other);
      return at_other.frames.size() == round && handler_.frames.size() == round;
    })) << "round "
        << round;
    plane_->Disconnect(*to_other);
    if (round % 2 == 0) (*other)->Disconnect(*from_other);  // else it must learn by itself, or ignore it
    ASSERT_TRUE(PollUntil([&] {
      (*other)->Poll(at_other);
      return plane_->pool_usage().num_closing_peers == 0;
    }));
  }
}

TEST_P(UcxDataPlaneTest, PeerThatWeNeverConnectedToMayComeAndGo) {
  for (uint64_t seq = 1; seq <= 5; ++seq) {
    UcxOptions options;
    options.tls = GetParam();
    auto visitor = MakeUcxDataPlane(options);
    ASSERT_TRUE(visitor.ok());
    const auto id = (*visitor)->Connect(plane_->info().address);
    ASSERT_TRUE(id.ok());
    ASSERT_TRUE(SendNumbered(**visitor, *id, seq).ok());
    RecordingHandler at_visitor;
    ASSERT_TRUE(PollUntil([&] {
      (*visitor)->Poll(at_visitor);
      return handler_.frames.size() == seq;
    }));
  }
  EchoPeer peer(GetParam());
  const PeerId id = ConnectBothWays(peer);
  handler_.frames.clear();
  ASSERT_TRUE(SendRandom(id, 100, 1000, 0).ok());
  ExpectEchoes();
}

TEST_P(UcxDataPlaneTest, RestartedPeerIsReachedAgain) {
  {
    EchoPeer peer(GetParam());
    const PeerId id = ConnectBothWays(peer);
    ASSERT_TRUE(SendRandom(id, 1, 100, 0).ok());
    ExpectEchoes();
    peer.Kill();
    ASSERT_TRUE(PollUntil([&] { return !handler_.errors.empty(); }, 3 * kNsPerS));
  }
  handler_.errors.clear();
  EchoPeer again(GetParam());
  const PeerId id = ConnectBothWays(again);
  ASSERT_TRUE(SendRandom(id, 2, 100, 0).ok());
  ASSERT_TRUE(SendRandom(id, 3, 1 << 20, 1).ok());
  ExpectEchoes();
}

TEST_P(UcxDataPlaneTest, AddressOfADeadProcessIsAnErrorAtOnceOrSoon) {
  std::string address;
  {
    EchoPeer peer(GetParam());
    address = peer.address();
    peer.Kill();
  }
  const absl::StatusOr<PeerId> id = plane_->Connect(address);
  if (!id.ok()) {
    EXPECT_EQ(id.status().code(), absl::StatusCode::kUnavailable) << id.status();
    return;
  }
  SendRandom(*id, 1, 100, 0).IgnoreError();
  EXPECT_TRUE(PollUntil([&] { return !handler_.errors.empty(); }, 5 * kNsPerS));
}

TEST_P(UcxDataPlaneTest, FrozenPeerExhaustsTheArenaAndNothingElse) {
  UcxOptions options;
  options.tls = GetParam();
  options.send_arena_bytes = 4 << 20;
  MakePlane(options);
  EchoPeer frozen(GetParam());
  EchoPeer lively(GetParam());
  const PeerId to_frozen = ConnectBothWays(frozen);
  const PeerId to_lively = ConnectBothWays(lively);
  ASSERT_TRUE(SendRandom(to_frozen, 1, 64, 0).ok());
  ASSERT_TRUE(SendRandom(to_lively, 2, 64, 0).ok());
  ExpectEchoes();
  frozen.Signal(SIGSTOP);
  absl::Status status;
  for (int i = 0; i < 100'000 && status.ok(); ++i) {
    absl::StatusOr<FrameBuffer> frame = NumberedFrame(*plane_, 3, 60 << 10);
    status = frame.status();
    if (!status.ok()) break;
    frame->header().flags = 2;
    status = plane_->Send(to_frozen, *std::move(frame), SendClass::kEager);
    plane_->Poll(handler_);
  }
  EXPECT_EQ(status.code(), absl::StatusCode::kResourceExhausted) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("send arena"));
  EXPECT_GT(plane_->pool_usage().send_used_bytes, 3u << 20);

  // The peer is as frozen as before: its buffers come back without its help.
  plane_->Disconnect(to_frozen);
  EXPECT_TRUE(PollUntil([&] { return plane_->pool_usage().send_used_bytes == 0; }, 5 * kNsPerS))
      << plane_->pool_usage().send_used_bytes;
  ASSERT_TRUE(SendRandom(to_lively, 4, 1 << 20, 0).ok());
  ExpectEchoes();
}

TEST_P(UcxDataPlaneTest, FullReceiveArenaMakesBulkFramesWait) {
  EchoPeer peer(GetParam(), /*recv_arena_bytes=*/3 << 20);
  const PeerId id = ConnectBothWays(peer);
  for (uint64_t seq = 1; seq <= 12; ++seq) ASSERT_TRUE(SendRandom(id, seq, 2 << 20, 1).ok());
  ExpectEchoes();
}

TEST_P(UcxDataPlaneTest, MessagesOfWrongSizesAreHandedOn) {
  UcxOptions options;
  options.tls = GetParam();
  auto context = UcxContext::Create(options);
  ASSERT_TRUE(context.ok());
  auto worker = UcxWorker::Create(context->handle());
  ASSERT_TRUE(worker.ok());
  const auto address = DecodeUcxAddress(plane_->info().address);
  ASSERT_TRUE(address.ok());
  ucp_ep_params_t params{};
  params.field_mask = UCP_EP_PARAM_FIELD_REMOTE_ADDRESS | UCP_EP_PARAM_FIELD_ERR_HANDLING_MODE;
  params.address = reinterpret_cast<const ucp_address_t*>(address->worker_address.data());
  params.err_mode = UCP_ERR_HANDLING_MODE_PEER;
  ucp_ep_h endpoint = nullptr;
  ASSERT_EQ(ucp_ep_create(worker->handle(), &params, &endpoint), UCS_OK);
  const std::string bytes(17 << 20, 'x');
  std::vector<void*> requests;
  const auto send = [&](size_t header_bytes, size_t data_bytes) {
    ucp_request_param_t param{};
    void* request = ucp_am_send_nbx(endpoint, 1, bytes.data(), header_bytes, bytes.data(), data_bytes, &param);
    ASSERT_FALSE(UCS_PTR_IS_ERR(request)) << UCS_PTR_STATUS(request);
    if (UCS_PTR_IS_PTR(request)) requests.push_back(request);
  };
  send(0, 0);
  send(3, 10);
  send(100, 0);
  send(64, 100);
  send(10, 1 << 20);   // rendezvous with a bad header
  send(64, 17 << 20);  // rendezvous beyond the limit
  EXPECT_TRUE(PollUntil([&] {
    worker->Progress();
    return handler_.frames.size() == 6;
  }));
  std::multiset<std::pair<size_t, size_t>> sizes;
  for (const auto& frame : handler_.frames) {
    sizes.emplace(frame.header.size(), frame.payload.size());
  }
  EXPECT_EQ(sizes, (std::multiset<std::pair<size_t, size_t>>{{0, 0}, {3, 10}, {100, 0}, {64, 100}, {10, 0}, {64, 0}}));
  EXPECT_TRUE(PollUntil([&] {
    worker->Progress();
    for (void* request : requests) {
      if (ucp_request_check_status(request) == UCS_INPROGRESS) return false;
    }
    return true;
  })) << "the sender of a refused message never hears of it";
  for (void* request : requests) ucp_request_free(request);
  ucp_request_param_t param{};
  param.op_attr_mask = UCP_OP_ATTR_FIELD_FLAGS;
  param.flags = UCP_EP_CLOSE_FLAG_FORCE;
  void* close = ucp_ep_close_nbx(endpoint, &param);
  while (UCS_PTR_IS_PTR(close) && ucp_request_check_status(close) == UCS_INPROGRESS) {
    worker->Progress();
  }
  if (UCS_PTR_IS_PTR(close)) ucp_request_free(close);
}

TEST_P(UcxDataPlaneTest, GarbageAddressesAreRefused) {
  const std::string good = plane_->info().address;
  std::vector<std::string> bad = {
      "", "x", "hello, world: not an address", good.substr(0, 23), good.substr(0, good.size() - 1), good + "x"};
  for (const size_t at : {size_t{0}, size_t{12}, size_t{16}, size_t{24}, good.size() - 1}) {
    std::string flipped = good;
    flipped[at] = static_cast<char>(flipped[at] ^ 4);
    bad.push_back(flipped);
  }
  for (const std::string& address : bad) {
    const absl::StatusOr<PeerId> id = plane_->Connect(address);
    ASSERT_FALSE(id.ok());
    EXPECT_EQ(id.status().code(), absl::StatusCode::kInvalidArgument) << id.status();
    EXPECT_THAT(std::string(id.status().message()), HasSubstr("TransportInfo.address"));
  }
  auto other = DecodeUcxAddress(good);
  ASSERT_TRUE(other.ok());
  other->minor += 1;
  absl::StatusOr<PeerId> id = plane_->Connect(EncodeUcxAddress(*other));
  EXPECT_EQ(id.status().code(), absl::StatusCode::kFailedPrecondition) << id.status();
  other->minor -= 1;
  other->settings_version += 1;
  id = plane_->Connect(EncodeUcxAddress(*other));
  EXPECT_EQ(id.status().code(), absl::StatusCode::kFailedPrecondition) << id.status();
}

TEST_P(UcxDataPlaneTest, UnknownPeersAreUnavailableOrIgnored) {
  EXPECT_EQ(SendNumbered(*plane_, PeerId(77), 1).code(), absl::StatusCode::kUnavailable);
  plane_->Disconnect(PeerId(77));
  EXPECT_EQ(plane_->pool_usage().send_used_bytes, 0u);
  EXPECT_EQ(plane_->AllocateFrame(limits::kMaxFramePayloadBytes + 1).status().code(),
            absl::StatusCode::kInvalidArgument);
}

// A connected and idle data plane must not burn its core.
TEST_P(UcxDataPlaneTest, IdleLoopSleeps) {
  EchoPeer peer(GetParam());
  const PeerId id = ConnectBothWays(peer);
  ASSERT_TRUE(SendRandom(id, 1, 100, 0).ok());
  ExpectEchoes();
  const RealClock clock;
  const auto cpu_ns = [] {
    timespec now{};
    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return now.tv_sec * kNsPerS + now.tv_nsec;
  };
  // The least of a few looks: who polls is busy in each (100 %), what else the machine does is not. Seen: below 1 %.
  IdleStrategy idle({}, &clock);
  double least_share = 1;
  for (int look = 0; look < 3; ++look) {
    const int64_t start_ns = clock.NowNs();
    const int64_t start_cpu_ns = cpu_ns();
    while (clock.NowNs() - start_ns < kNsPerS / 2) idle.AfterPoll(plane_->Poll(handler_), *plane_);
    const auto passed_ns = static_cast<double>(clock.NowNs() - start_ns);
    least_share = std::min(least_share, static_cast<double>(cpu_ns() - start_cpu_ns) / passed_ns);
  }
  std::printf("idle: %.2f %% of a core\n", 100 * least_share);
  EXPECT_LT(least_share, 0.2);
}

TEST_P(UcxDataPlaneTest, WakeEndsAWait) {
  const RealClock clock;
  plane_->Wake();
  plane_->WaitForEvent(kNsPerMs);
  // Without Wake() none is shorter than a millisecond; with it some are longer on a busy machine.
  int num_short = 0;
  for (int i = 0; i < 100; ++i) {
    const int64_t start_ns = clock.NowNs();
    plane_->Wake();
    plane_->WaitForEvent(kNsPerMs);
    num_short += clock.NowNs() - start_ns < kNsPerMs ? 1 : 0;
  }
  EXPECT_GT(num_short, 50);
  const int64_t slept_from_ns = clock.NowNs();
  for (int i = 0; i < 10; ++i) {
    while (plane_->Poll(handler_) != 0) {
    }
    plane_->WaitForEvent(kNsPerMs);
  }
  EXPECT_GT(clock.NowNs() - slept_from_ns, 5 * kNsPerMs) << "an old Wake() is still there";
}

TEST_P(UcxDataPlaneTest, WakeFromAnotherThreadIsNeverLost) {
  std::atomic<int> posted{0};
  std::atomic<int> seen{0};
  constexpr int kPosts = 2000;
  std::thread poster([&] {
    for (int i = 1; i <= kPosts; ++i) {
      posted = i;
      plane_->Wake();
      while (seen < i) std::this_thread::yield();
    }
  });
  // If they were lost, the waits would be a millisecond long; on a busy machine many are anyway.
  const RealClock clock;
  int num_short = 0;
  while (seen < kPosts) {
    const int64_t start_ns = clock.NowNs();
    plane_->Poll(handler_);
    plane_->WaitForEvent(kNsPerMs);
    const int now_posted = posted.load();
    num_short += now_posted > seen && clock.NowNs() - start_ns < kNsPerMs ? 1 : 0;
    seen = now_posted;
  }
  poster.join();
  EXPECT_GT(num_short, kPosts / 20);
}

INSTANTIATE_TEST_SUITE_P(Tls, UcxDataPlaneTest,
                         ::testing::Values("posix,sysv,self", "posix,sysv,cma,self", "tcp,self", "all"),
                         [](const auto& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), ',', '_');
                           return name;
                         });

TEST(UcxOptionsTest, UnknownTransportIsAnError) {
  UcxOptions options;
  options.tls = "carrier_pigeon";
  const auto plane = MakeUcxDataPlane(options);
  ASSERT_FALSE(plane.ok());
  EXPECT_THAT(std::string(plane.status().message()), HasSubstr("carrier_pigeon"));
}

TEST(UcxOptionsTest, CrashHandlersOfUcxAreGone) {
  ASSERT_TRUE(MakeUcxDataPlane({}).ok());
  struct sigaction action {};
  ASSERT_EQ(sigaction(SIGSEGV, nullptr, &action), 0);
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  EXPECT_TRUE(action.sa_handler == SIG_DFL);
#endif
}

}  // namespace
}  // namespace tributary

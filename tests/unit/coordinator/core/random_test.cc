// Random clusters, requests and faults from one seed; what must hold is checked after every step,
// and at the end nothing is left. TRIBUTARY_TEST_SEED replays a run.
#include <algorithm>
#include <array>
#include <cstdlib>
#include <map>
#include <random>
#include <set>

#include "base/clock.h"
#include "base/limits.h"
#include "coordinator/core/coordinator_core.h"
#include "fmt/format.h"
#include "gtest/gtest.h"
#include "tests/testutil/test_seed.h"
#include "tests/unit/coordinator/core/action_text.h"

namespace tributary {
namespace {

CoordinatorConfig RandomTestConfig(uint64_t seed) {
  CoordinatorConfig config;
  config.protocol_version = 1;
  config.admission = {6, 4, 4};
  config.defaults.window_tokens = 32;
  config.defaults.block_tokens = 16;
  config.defaults.kv_dtype = DType::kBf16;
  config.node_timeout_ns = 4 * kNsPerS;
  config.step_timeout_ns = kNsPerS;
  config.stall_timeout_ns = 5 * kNsPerS;
  config.stop_timeout_ns = 2 * kNsPerS;
  config.orphan_grace_ns = kNsPerS;
  config.close_retry_ns = kNsPerS;
  config.forget_after_ns = 60 * kNsPerS;
  config.max_token_ids = 3000;  // not enough for all
  config.sequence_ids = SeededIds(seed);
  config.shard_ids = SeededIds(seed + 1);
  return config;
}

// Plays clients, nodes and workers by the rules of the protocol, but with random timing, loss and
// death.
class World {
 public:
  explicit World(uint64_t seed) : random_(seed), core_(RandomTestConfig(seed)) {}
  const std::array<int, 4>& outcomes() const { return outcomes_; }
  int num_continued() const { return num_continued_; }
  int num_rebuilt() const { return num_rebuilt_; }
  const std::vector<std::string>& history() const { return history_; }
  const std::array<int, action::kNumLeaseEnds>& leases_ended() const { return leases_ended_; }

  void Run(int num_events) {
    for (int i = 0; i < num_events && !testing::Test::HasFailure(); ++i) RandomEvent();
    Settle();
  }

 private:
  struct Node {
    uint64_t incarnation = 0;
    std::set<ShardId> shards;
  };
  struct Worker {
    WorkerIdentity identity;
    StreamId stream;
    std::map<SequenceId, uint32_t> left;   // tokens to give; of a kept sequence: 0
    std::map<SequenceId, uint32_t> given;  // of the turn; token number i is i
    std::map<SequenceId, Epoch> epochs;
    std::set<SequenceId> keeps;  // asked to keep it when it has given them
    std::set<SequenceId> stalled;
    std::vector<StepCommand> steps;
  };

  uint64_t Pick(uint64_t n) { return random_() % n; }
  bool Chance(int percent) { return Pick(100) < static_cast<uint64_t>(percent); }

  void Step(Event event) {
    for (Action& action : core_.Step(std::move(event), now_ns_)) {
      history_.push_back(ActionText(action));
      std::visit([this](auto& a) { Apply(a); }, action);
    }
    CheckSteps();
  }

  template <typename T>
  void Apply(T&) {}
  void Apply(action::OpenShard& a) {
    EXPECT_TRUE(ever_opened_.emplace(a.spec.shard_id, a.worker).second);
    opens_.push_back(a);
  }
  void Apply(action::CloseShard& a) { closes_.push_back(a); }
  void Apply(action::CloseStream& a) { ForgetStream(a.stream); }
  void Apply(action::StartSequence& a) {
    for (auto& [name, worker] : workers_) {
      if (worker.stream != a.stream) continue;
      for (const ShardPlacement& shard : a.plan.shards) {
        EXPECT_EQ(ever_opened_.at(shard.spec.shard_id), worker.identity) << "opened for another worker";
      }
      const SequenceId id = a.plan.sequence_id;
      EXPECT_FALSE(worker.left.contains(id)) << "started while its worker has it";
      const auto given = static_cast<uint32_t>(a.plan.answer_tokens.size());
      for (uint32_t i = 0; i < given; ++i) EXPECT_EQ(a.plan.answer_tokens[i], i) << "it begins in the middle";
      if (!a.plan.past_turns.empty() || given > 0) ++num_rebuilt_;
      EXPECT_LE(given, a.plan.max_tokens);
      worker.left[id] = a.plan.max_tokens - given;
      worker.given[id] = given;
      worker.epochs[id] = a.plan.epoch;
      started_.erase(id);
      if (a.plan.keep) worker.keeps.insert(id);
      if (given == a.plan.max_tokens) complete_.push_back({a.stream, id});
    }
  }
  void Apply(action::ContinueSequence& a) {
    for (auto& [id, worker] : workers_) {
      if (worker.stream != a.stream) continue;
      const SequenceId sequence = a.plan.sequence_id;
      const auto it = worker.left.find(sequence);
      ASSERT_NE(it, worker.left.end()) << "continued a sequence that is not there";
      EXPECT_EQ(it->second, 0u) << "continued during a turn";
      it->second = a.plan.turn.max_tokens;
      worker.given[sequence] = 0;
      if (!a.plan.turn.keep) worker.keeps.erase(sequence);
      started_.erase(sequence);
      ++num_continued_;
    }
  }
  void Apply(action::Accepted& a) { accepted_.push_back(a.accepted.request_id); }
  void Apply(action::EndLease& a) {
    if (a.end != action::LeaseEnd::kContinued) ++leases_ended_[static_cast<size_t>(a.end)];
  }
  void Apply(action::TakeStep& a) {
    EXPECT_FALSE(a.step.sequence_ids.empty());
    for (auto& [id, worker] : workers_) {
      if (worker.stream == a.stream) worker.steps.push_back(a.step);
    }
  }
  void Apply(action::StopSequence& a) {
    for (auto& [id, worker] : workers_) {
      if (worker.stream == a.stream && worker.left.contains(a.stop.sequence_id)) {
        stops_.push_back({a.stream, a.stop});
      }
    }
  }
  void Apply(action::Tokens& a) {
    EXPECT_TRUE(calls_.contains(a.call)) << "token after Finish";
    EXPECT_EQ(a.first, next_token_[a.call] == 0);
    for (const uint32_t token : a.tokens.tokens) EXPECT_EQ(token, next_token_[a.call]++) << "lost or repeated";
  }
  void Apply(action::Finish& a) {
    EXPECT_EQ(calls_.erase(a.call), 1u) << "second Finish";
    if (a.summary.kept) names_.push_back(a.summary.kept->request_id);
    ++outcomes_[static_cast<size_t>(a.outcome)];
  }

  void CheckSteps() {
    for (const auto& [id, worker] : workers_) {
      EXPECT_LE(worker.steps.size(), limits::kMaxStepsInFlight);
    }
  }

  void ForgetStream(StreamId stream) {
    std::erase_if(workers_, [&](const auto& item) { return item.second.stream == stream; });
  }

  NodeDescription Describe(const std::string& id, NodeRole role, uint64_t incarnation) {
    NodeDescription node{id, incarnation, role, id + ":1", "", "test", 1, 256 << 10, 4096};
    if (role == NodeRole::kGpuWorker) {
      node.geometry = {{4, 2, 16}, 2, 256, "tiny"};
      node.max_batch = 3;
    }
    return node;
  }

  void RandomEvent() {
    switch (Pick(17)) {
      case 0:
        return RegisterNode(fmt::format("cpu-{}", Pick(3)));
      case 1:
        return HelloWorker(fmt::format("gpu-{}", Pick(2)));
      case 2:
      case 3:
        return Generate();
      case 4:
      case 5:
        return AnswerOpen();
      case 6:
        return AnswerClose();
      case 7:
      case 8:
        return WorkerProgress();
      case 9:
        return WorkerStep();
      case 10:
        return ClientLeaves();
      case 11:
        return Heartbeats(90);
      case 12:
      case 13:
        return Continue();
      case 16:
        return StallOrResume();
      case 14:
        now_ns_ += static_cast<int64_t>(Pick(400)) * kNsPerMs;
        return Step(event::Tick{});
      default:
        return Disturb();
    }
  }

  void RegisterNode(const std::string& id) {
    if (nodes_.contains(id) && Chance(90)) return;
    if (nodes_.contains(id)) {
      const NodeHeartbeat last{id, nodes_[id].incarnation, 0, {}, /*draining=*/true, /*leaving=*/true};
      Step(event::Heartbeat{CallId(++last_call_), last});
    }
    const uint64_t incarnation = ++incarnations_;
    nodes_[id] = {incarnation, {}};  // a restarted node holds nothing
    Step(event::Register{CallId(++last_call_), Describe(id, NodeRole::kCpuAttention, incarnation)});
  }

  void HelloWorker(const std::string& id) {
    if (workers_.contains(id) && Chance(90)) return;
    if (const auto it = workers_.find(id); it != workers_.end()) {
      const StreamId lost = it->second.stream;
      ForgetStream(lost);
      Step(event::WorkerLost{lost});
    }
    const StreamId stream(++last_stream_);
    const uint64_t incarnation = ++incarnations_;
    Step(event::WorkerHello{stream, Describe(id, NodeRole::kGpuWorker, incarnation)});
    workers_[id] = {{id, incarnation}, stream, {}, {}, {}, {}, {}, {}};
  }

  void Generate() {
    const CallId call(++last_call_);
    calls_.insert(call);
    event::Generate e{call, {}};
    e.spec.prompt_tokens.assign(Pick(900), 1);
    e.spec.max_tokens = static_cast<uint32_t>(Pick(8));
    e.spec.placement.cut = static_cast<Cut>(Pick(4));
    e.spec.placement.all_resident = Chance(10);
    if (Chance(60)) {
      e.spec.lease.lease_ns = static_cast<int64_t>(Pick(4000)) * kNsPerMs;
      e.spec.lease.max_context_tokens = e.spec.prompt_tokens.size() + Pick(200);
    }
    Step(std::move(e));
  }

  // Of one that was kept once, and may be so still.
  void Continue() {
    if (names_.empty()) return;
    const CallId call(++last_call_);
    calls_.insert(call);
    event::Generate e{call, {}};
    const size_t recent = std::min<size_t>(names_.size(), 4);
    e.spec.continue_request_id = names_[names_.size() - 1 - Pick(recent)];
    e.spec.prompt_tokens.assign(Pick(60), 1);
    e.spec.max_tokens = static_cast<uint32_t>(Pick(8));
    if (Chance(60)) e.spec.lease.lease_ns = static_cast<int64_t>(1 + Pick(4000)) * kNsPerMs;
    Step(std::move(e));
  }

  void AnswerOpen() {
    if (opens_.empty()) return;
    const size_t i = Pick(opens_.size());
    const action::OpenShard open = opens_[i];
    opens_.erase(opens_.begin() + static_cast<long>(i));
    absl::Status status = absl::OkStatus();
    const auto node = nodes_.find(open.holder.node_id);
    const bool reachable = node != nodes_.end() && node->second.incarnation == open.holder.incarnation;
    if (!reachable || Chance(3)) {
      status = absl::DeadlineExceededError("no answer");
    } else if (Chance(3)) {
      status = absl::ResourceExhaustedError("full");
    }
    if (reachable && (status.ok() || (absl::IsDeadlineExceeded(status) && Chance(50)))) {
      node->second.shards.insert(open.spec.shard_id);
    }
    Step(event::ShardOpened{open.spec.shard_id, open.holder.node_id, status});
  }

  void AnswerClose() {
    if (closes_.empty()) return;
    const action::CloseShard close = closes_.front();
    closes_.erase(closes_.begin());
    if (Chance(10)) {
      return Step(event::ShardClosed{close.shard_id, close.holder.node_id, absl::UnavailableError("no answer")});
    }
    nodes_[close.holder.node_id].shards.erase(close.shard_id);
    Step(event::ShardClosed{close.shard_id, close.holder.node_id, absl::OkStatus()});
  }

  Worker* AnyWorker() {
    if (workers_.empty()) return nullptr;
    auto it = workers_.begin();
    std::advance(it, static_cast<long>(Pick(workers_.size())));
    return &it->second;
  }

  // The worker of the stream, if it has the sequence.
  const Worker* Has(StreamId stream, SequenceId id) const {
    for (const auto& [name, worker] : workers_) {
      if (worker.stream == stream && worker.left.contains(id)) return &worker;
    }
    return nullptr;
  }

  // A first token, or the confirmation of a stop, or an error.
  void WorkerProgress() {
    if (!stops_.empty() && Chance(70)) {
      const auto [stream, stop] = stops_.front();
      stops_.erase(stops_.begin());
      const Worker* stopped = Has(stream, stop.sequence_id);
      // One that has come again meanwhile is not meant.
      if (stopped != nullptr && stopped->epochs.at(stop.sequence_id) != stop.epoch) return;
      return End(stream, stop.sequence_id, absl::CancelledError("stopped"));
    }
    Worker* worker = AnyWorker();
    if (worker == nullptr || worker->left.empty()) return;
    auto it = worker->left.begin();
    std::advance(it, static_cast<long>(Pick(worker->left.size())));
    const SequenceId id = it->first;
    const auto left = it->second;
    const StreamId stream = worker->stream;
    if (!complete_.empty()) {  // its answer was there before it was lost
      const auto [its_stream, its_id] = complete_.back();
      complete_.pop_back();
      const Worker* its = Has(its_stream, its_id);
      if (its != nullptr && its->left.at(its_id) == 0) EndTurn(its_stream, its_id);
      return;
    }
    if (Chance(5)) return End(stream, id, absl::UnavailableError("a node failed"));
    if (left == 0) return;  // kept
    if (std::any_of(started_.begin(), started_.end(), [&](SequenceId s) { return s == id; })) return;
    started_.insert(id);
    worker->left[id] = left - 1;
    Step(event::WorkerTokens{stream, {id, {worker->given[id]++}, {0}}});
    if (left == 1) EndTurn(stream, id);
  }

  void StallOrResume() {
    Worker* worker = AnyWorker();
    if (worker == nullptr || worker->left.empty()) return;
    auto it = worker->left.begin();
    std::advance(it, static_cast<long>(Pick(worker->left.size())));
    const SequenceId id = it->first;
    const StreamId stream = worker->stream;
    if (worker->stalled.erase(id) != 0) return Step(event::WorkerResumed{stream, {id}});
    if (it->second == 0) return;
    worker->stalled.insert(id);
    Step(event::WorkerStalled{stream, {id, "cpu-0"}});
  }

  // Keeps the sequence if that was asked for.
  void EndTurn(StreamId stream, SequenceId id) {
    for (auto& [name, worker] : workers_) {
      if (worker.stream != stream || !worker.keeps.contains(id)) continue;
      worker.left[id] = 0;
      return Step(event::WorkerKept{stream, {id, {}}});
    }
    End(stream, id, absl::OkStatus());
  }

  void WorkerStep() {
    Worker* worker = AnyWorker();
    if (worker == nullptr || worker->steps.empty()) return;
    const StepCommand step = worker->steps.front();
    worker->steps.erase(worker->steps.begin());
    const StreamId stream = worker->stream;
    event::WorkerStepDone done{stream, {step.step_id, {}}};
    std::vector<SequenceId> ended;
    for (const SequenceId id : step.sequence_ids) {
      const auto it = worker->left.find(id);
      // A step that was sent before the sequence ended its turn may name it still.
      if (it == worker->left.end() || it->second == 0 || !started_.contains(id)) continue;
      if (worker->stalled.contains(id)) continue;
      done.done.tokens.push_back({id, {worker->given[id]++}, {0}});
      if (--it->second == 0 || Chance(5)) ended.push_back(id);
    }
    Step(std::move(done));
    for (const SequenceId id : ended) EndTurn(stream, id);
  }

  void End(StreamId stream, SequenceId id, absl::Status status) {
    for (auto& [name, worker] : workers_) {
      if (worker.stream != stream) continue;
      worker.left.erase(id);
      worker.stalled.erase(id);
      worker.keeps.erase(id);
    }
    const std::string blamed = absl::IsUnavailable(status) ? "cpu-0" : "";
    Step(event::WorkerEnded{stream, {id, std::move(status), blamed, {}}});
  }

  void ClientLeaves() {
    if (!names_.empty() && Chance(10)) {
      return Step(event::Cancel{CallId(++last_call_), names_.back()});
    }
    if (calls_.empty() || Chance(50)) return;
    auto it = calls_.begin();
    std::advance(it, static_cast<long>(Pick(calls_.size())));
    if (Chance(50)) return Step(event::ClientGone{*it});
    if (accepted_.empty()) return;
    Step(event::Cancel{CallId(++last_call_), accepted_[Pick(accepted_.size())]});
  }

  void Heartbeats(int percent) {
    for (auto& [id, node] : nodes_) {
      if (!Chance(percent)) continue;
      event::Heartbeat e{CallId(++last_call_), {id, node.incarnation, 0, {}, Chance(2)}};
      for (const ShardId shard : node.shards) e.heartbeat.shards.push_back({shard, SequenceId(0), 4096});
      Step(std::move(e));
    }
    std::vector<StreamId> streams;
    for (const auto& [id, worker] : workers_) streams.push_back(worker.stream);
    for (const StreamId stream : streams) {
      if (Chance(percent)) Step(event::WorkerHeartbeat{stream, {0, 0, Chance(2)}});
    }
  }

  // What should never come, and deaths.
  void Disturb() {
    const StreamId stream(Pick(last_stream_ + 2));
    const SequenceId sequence(Pick(50));
    switch (Pick(10)) {
      case 8:
        return Step(event::WorkerKept{StreamId(9999), {sequence, {}}});
      case 0:
        return Step(event::WorkerTokens{StreamId(9999), {sequence, {1}, {0}}});
      case 1:
        return Step(event::WorkerStepDone{stream, {StepId(100000), {{sequence, {1}, {0}}}}});
      case 2:
        return Step(event::WorkerEnded{StreamId(9999), {sequence, absl::OkStatus(), "", {}}});
      case 3:
        return Step(event::ShardOpened{ShardId(100000), "cpu-0", absl::OkStatus()});
      case 4:
        return Step(event::ShardClosed{ShardId(Pick(100)), "cpu-0", absl::OkStatus()});
      case 5:
        return Step(event::ClientGone{CallId(999999)});
      case 6:
        return Step(event::WorkerPrefill{stream, {sequence, 1, 2, 0.5}});
      case 7:
        if (Worker* worker = AnyWorker(); worker != nullptr && Chance(30)) {
          const StreamId lost = worker->stream;
          ForgetStream(lost);
          Step(event::WorkerLost{lost});
        }
        return;
      default:
        return Step(event::Heartbeat{CallId(++last_call_), {"nobody", 1, 0, {}, false}});
    }
  }

  // Everybody answers and lets go: nothing may be left over.
  void Settle() {
    Step(event::Drain{});
    Step(event::Abort{});
    for (int i = 0; i < 2000 && !core_.idle(); ++i) {
      AnswerOpen();
      AnswerClose();
      WorkerStep();
      if (!stops_.empty()) WorkerProgress();
      now_ns_ += 100 * kNsPerMs;
      Heartbeats(100);
      Step(event::Tick{});
    }
    EXPECT_TRUE(core_.idle());
    EXPECT_TRUE(calls_.empty()) << calls_.size() << " clients never got an end";
    const ClusterStatus status = core_.status();
    EXPECT_EQ(status.running + status.waiting + status.shards + status.kept.size(), 0u);
    for (const MemberStatus& member : status.members) {
      EXPECT_EQ(member.shards, 0u) << member.member.node.node_id;
      EXPECT_EQ(member.sequences, 0u) << member.member.node.node_id;
      if (member.member.node.role == NodeRole::kGpuWorker && member.member.may_return()) {
        EXPECT_EQ(member.available_bytes, member.member.node.kv_capacity_bytes);
      }
    }
    if (testing::Test::HasFailure()) PrintHistory();
  }

  void PrintHistory() {
    const size_t begin = history_.size() > 60 ? history_.size() - 60 : 0;
    for (size_t i = begin; i < history_.size(); ++i) printf("%s\n", history_[i].c_str());
  }

  std::mt19937_64 random_;
  CoordinatorCore core_;
  int64_t now_ns_ = kNsPerS;
  uint64_t last_call_ = 0;
  uint64_t last_stream_ = 0;
  uint64_t incarnations_ = 0;
  std::map<std::string, Node> nodes_;
  std::map<std::string, Worker> workers_;
  std::set<CallId> calls_;
  std::map<ShardId, WorkerIdentity> ever_opened_;  // for whom
  std::set<SequenceId> started_;
  std::vector<action::OpenShard> opens_;
  std::vector<action::CloseShard> closes_;
  std::vector<std::pair<StreamId, StopCommand>> stops_;
  std::vector<std::pair<StreamId, SequenceId>> complete_;  // rebuilt with all of their answer
  std::map<CallId, uint32_t> next_token_;
  std::vector<std::string> history_;
  std::array<int, 4> outcomes_{};
  std::vector<std::string> accepted_;  // names of all requests that got a place
  std::vector<std::string> names_;     // of sequences that were kept
  int num_continued_ = 0;
  int num_rebuilt_ = 0;
  std::array<int, action::kNumLeaseEnds> leases_ended_{};
};

// Ids are random, but of the seed.
TEST(CoordinatorRandomTest, ASeedReplaysEveryAction) {
  World world(7), again(7), other(8);
  for (World* w : {&world, &again, &other}) w->Run(300);
  EXPECT_EQ(world.history(), again.history());
  EXPECT_NE(world.history(), other.history());
}

TEST(CoordinatorRandomTest, NothingIsLostOrLeftOver) {
  const uint64_t seed = TestSeed();
  std::array<int, 4> outcomes{};
  std::array<int, action::kNumLeaseEnds> leases_ended{};
  int num_rebuilt = 0;
  for (uint64_t round = 0; round < 60 && !HasFailure(); ++round) {
    SCOPED_TRACE(fmt::format("TRIBUTARY_TEST_SEED={} (round {})", seed, round));
    World world(seed + round);
    world.Run(1500);
    for (size_t i = 0; i < outcomes.size(); ++i) outcomes[i] += world.outcomes()[i];
    for (size_t i = 0; i < leases_ended.size(); ++i) leases_ended[i] += world.leases_ended()[i];
    leases_ended[0] += world.num_continued();
    num_rebuilt += world.num_rebuilt();
  }
  EXPECT_GT(num_rebuilt, 60);
  // The world must be rough, but not so rough that nothing ever ends well.
  for (const int count : outcomes) EXPECT_GT(count, 60);
  for (size_t i = 0; i < leases_ended.size(); ++i) {
    EXPECT_GT(leases_ended[i], 5) << LeaseEndName(static_cast<action::LeaseEnd>(i));
  }
}

}  // namespace
}  // namespace tributary

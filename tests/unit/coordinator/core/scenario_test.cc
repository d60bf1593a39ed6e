// Plays tests/scenarios/coordinator/*.txt: blocks of commands, "----", and the actions that came of
// them. Run with TRIBUTARY_REWRITE_SCENARIOS=1 to record what comes out now; then read the diff.
//
// The model: 2 layers, 4 query heads, 2 KV heads, head_dim 16, bf16 KV: 256 bytes per token;
// extents of 4096 bytes.
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>
#include <sstream>

#include "base/clock.h"
#include "coordinator/core/coordinator_core.h"
#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/coordinator/core/action_text.h"

namespace tributary {
namespace {

namespace fs = std::filesystem;

// 1, 2, 3 ...: stories must be readable.
IdSource CountedIds() {
  return [last = uint64_t{0}]() mutable { return ++last; };
}

CoordinatorConfig ScenarioConfig() {
  CoordinatorConfig config;
  config.protocol_version = 1;
  config.admission = {2, 2, 1};
  config.defaults.window_tokens = 64;
  config.defaults.sink_tokens = 16;
  config.defaults.block_tokens = 16;
  config.defaults.kv_dtype = DType::kBf16;
  config.node_timeout_ns = 4 * kNsPerS;
  config.step_timeout_ns = 2 * kNsPerS;
  config.stall_timeout_ns = 20 * kNsPerS;
  config.stop_timeout_ns = 2 * kNsPerS;
  config.orphan_grace_ns = 3 * kNsPerS;
  config.close_retry_ns = kNsPerS;
  config.forget_after_ns = 60 * kNsPerS;
  config.sequence_ids = CountedIds();
  config.shard_ids = CountedIds();
  return config;
}

// "verb name key=value flag": the name is the first word without '='.
struct Command {
  std::string verb;
  std::vector<std::string> names;
  std::map<std::string, std::string> values;

  explicit Command(const std::string& line) {
    std::istringstream words(line);
    words >> verb;
    for (std::string word; words >> word;) {
      const size_t equal = word.find('=');
      if (equal == std::string::npos) {
        names.push_back(word);
      } else {
        values[word.substr(0, equal)] = word.substr(equal + 1);
      }
    }
  }
  uint64_t Number(const std::string& key, uint64_t otherwise) const {
    const auto it = values.find(key);
    return it == values.end() ? otherwise : std::stoull(it->second);
  }
  std::string Text(const std::string& key) const {
    const auto it = values.find(key);
    return it == values.end() ? "" : it->second;
  }
  bool Has(const std::string& flag) const { return std::find(names.begin(), names.end(), flag) != names.end(); }
};

std::vector<uint64_t> Numbers(const std::string& list) {
  std::vector<uint64_t> numbers;
  std::istringstream words(list);
  for (std::string word; std::getline(words, word, ',');) numbers.push_back(std::stoull(word));
  return numbers;
}

absl::Status StatusOf(const Command& command) {
  const std::string error = command.Text("error");
  if (error.empty()) return absl::OkStatus();
  static const std::map<std::string, absl::StatusCode> codes = {
      {"unavailable", absl::StatusCode::kUnavailable},   {"exhausted", absl::StatusCode::kResourceExhausted},
      {"deadline", absl::StatusCode::kDeadlineExceeded}, {"cancelled", absl::StatusCode::kCancelled},
      {"data-loss", absl::StatusCode::kDataLoss},        {"internal", absl::StatusCode::kInternal}};
  return absl::Status(codes.at(error), "as the scenario says");
}

class Scenario {
 public:
  std::string Run(const std::string& line) {
    const Command command(line);
    if (command.verb == "status") return StatusText();
    if (command.verb == "advance") return Advance(std::stoll(command.names.at(0)));
    if (command.verb == "opened-all") return All(open_, true);
    if (command.verb == "closed-all") return All(close_, false);
    return Step(Parse(command));
  }

 private:
  std::string Step(Event event) {
    std::string out;
    for (const Action& action : core_.Step(std::move(event), now_ns_)) {
      if (const auto* open = std::get_if<action::OpenShard>(&action)) {
        open_.insert(open->spec.shard_id);
        node_of_[open->spec.shard_id] = open->holder.node_id;
      }
      if (const auto* close = std::get_if<action::CloseShard>(&action)) {
        close_.insert(close->shard_id);
      }
      out += ActionText(action) + "\n";
    }
    return out;
  }

  std::string Advance(int64_t ms) {
    now_ns_ += ms * kNsPerMs;
    return Step(event::Tick{});
  }

  std::string All(std::set<ShardId>& shards, bool opened) {
    std::string out;
    for (const ShardId shard : std::exchange(shards, {})) {
      out += opened ? Step(event::ShardOpened{shard, node_of_[shard], absl::OkStatus()})
                    : Step(event::ShardClosed{shard, node_of_[shard], absl::OkStatus()});
    }
    return out;
  }

  NodeDescription Node(const Command& c, NodeRole role) {
    NodeDescription node;
    node.node_id = c.names.back();
    node.incarnation = c.Number("incarnation", 1);
    node.role = role;
    node.protocol_version = static_cast<uint32_t>(c.Number("protocol", 1));
    node.version = "test";
    node.control_address = node.node_id + ":1";
    node.kv_capacity_bytes = c.Number("kib", 1024) << 10;
    node.extent_bytes = 4096;
    if (role == NodeRole::kGpuWorker) {
      node.geometry = {{4, 2, static_cast<uint32_t>(c.Number("head_dim", 16))}, 2, 256, "tiny"};
      node.max_context_tokens = 4096;
      node.max_batch = static_cast<uint32_t>(c.Number("batch", 8));
    }
    return node;
  }

  Event Parse(const Command& c) {
    const CallId call(c.Number("call", 0));
    const StreamId stream(c.Number("stream", 0));
    const SequenceId sequence(c.Number("sequence", 0));
    if (c.verb == "register") return event::Register{call, Node(c, NodeRole::kCpuAttention)};
    if (c.verb == "hello") return event::WorkerHello{stream, Node(c, NodeRole::kGpuWorker)};
    if (c.verb == "heartbeat") {
      event::Heartbeat e{call, {c.names.at(0), c.Number("incarnation", 1), 0, {}, c.Has("draining"), c.Has("leaving")}};
      for (const uint64_t id : Numbers(c.Text("shards"))) {
        e.heartbeat.shards.push_back({ShardId(id), SequenceId(0), 4096});
      }
      return e;
    }
    if (c.verb == "worker-heartbeat") {
      return event::WorkerHeartbeat{stream, {0, 0, c.Has("draining")}};
    }
    if (c.verb == "worker-lost") return event::WorkerLost{stream};
    if (c.verb == "generate") return ParseGenerate(c);
    if (c.verb == "gone") return event::ClientGone{call};
    if (c.verb == "cancel") return event::Cancel{call, c.Text("request")};
    if (c.verb == "opened") {
      const ShardId shard(c.Number("shard", 0));
      open_.erase(shard);
      return event::ShardOpened{shard, node_of_[shard], StatusOf(c)};
    }
    if (c.verb == "closed") {
      const ShardId shard(c.Number("shard", 0));
      close_.erase(shard);
      return event::ShardClosed{shard, node_of_[shard], StatusOf(c)};
    }
    if (c.verb == "prefill") return event::WorkerPrefill{stream, {sequence, 1, 2, 0.5}};
    if (c.verb == "tokens") return event::WorkerTokens{stream, {sequence, {7}, {-1.0f}}};
    if (c.verb == "done") {
      event::WorkerStepDone e{stream, {StepId(c.Number("step", 0)), {}}};
      for (const uint64_t id : Numbers(c.Text("sequences"))) {
        e.done.tokens.push_back({SequenceId(id), {7}, {-1.0f}});
      }
      return e;
    }
    if (c.verb == "ended") {
      return event::WorkerEnded{stream, {sequence, StatusOf(c), c.Text("node"), {}}};
    }
    if (c.verb == "stalled") return event::WorkerStalled{stream, {sequence, c.Text("node")}};
    if (c.verb == "resumed") return event::WorkerResumed{stream, {sequence}};
    if (c.verb == "kept") return event::WorkerKept{stream, {sequence, {}}};
    if (c.verb == "drain") return event::Drain{};
    if (c.verb == "abort") return event::Abort{};
    ADD_FAILURE() << "unknown verb " << c.verb;
    return event::Tick{};
  }

  static Event ParseGenerate(const Command& c) {
    event::Generate e{CallId(c.Number("call", 0)), {}};
    e.spec.prompt_tokens.assign(c.Number("prompt", 10), static_cast<uint32_t>(c.Number("token", 1)));
    e.spec.max_tokens = static_cast<uint32_t>(c.Number("max", 4));
    e.spec.request_id = c.Text("request");
    e.spec.policy.name = c.Text("policy");
    e.spec.placement.window_tokens = static_cast<uint32_t>(c.Number("window", 0));
    e.spec.placement.cut = static_cast<Cut>(c.Number("cut", 0));
    e.spec.placement.all_resident = c.Has("all-resident");
    e.spec.lease.lease_ns = static_cast<int64_t>(c.Number("keep-ms", 0)) * kNsPerMs;
    e.spec.lease.max_context_tokens = c.Number("keep-tokens", 0);
    e.spec.continue_request_id = c.Text("continue");
    e.spec.max_stall_ns = static_cast<int64_t>(c.Number("stall-ms", 0)) * kNsPerMs;
    return e;
  }

  std::string StatusText() const {
    const ClusterStatus status = core_.status();
    std::string out = fmt::format("running={} waiting={} shards={} finished={} failed={} idle={}\n", status.running,
                                  status.waiting, status.shards, status.finished, status.failed, core_.idle());
    for (const KeptStatus& kept : status.kept) {
      out += fmt::format("kept {} sequence={} on {} left={}ms tokens={}/{} resident={} shards={}\n", kept.request_id,
                         kept.sequence_id.value, kept.worker_id, (kept.kept_until_ns - now_ns_) / kNsPerMs,
                         kept.context_tokens, kept.reserved_context_tokens, kept.resident_bytes, kept.shard_bytes);
    }
    for (const MemberStatus& m : status.members) {
      out += fmt::format("{} {} shards={} sequences={} available={}\n", m.member.node.node_id,
                         MemberStateName(m.member.state), m.shards, m.sequences, m.available_bytes);
    }
    return out;
  }

  CoordinatorCore core_{ScenarioConfig()};
  int64_t now_ns_ = kNsPerS;
  std::set<ShardId> open_;
  std::set<ShardId> close_;
  std::map<ShardId, std::string> node_of_;  // the one that holds it
};

// Returns the file as it should read.
std::string Play(const std::string& text) {
  Scenario scenario;
  std::istringstream lines(text);
  std::string out, actual, line;
  bool in_expected = false;
  while (std::getline(lines, line)) {
    if (in_expected) {
      if (!line.empty()) continue;
      in_expected = false;
      out += "\n";
      continue;
    }
    if (line == "----") {
      out += "----\n" + std::exchange(actual, "");
      in_expected = true;
      continue;
    }
    out += line + "\n";
    if (!line.empty() && line[0] != '#') actual += scenario.Run(line);
  }
  return out;
}

std::string ReadFile(const fs::path& path) {
  std::ifstream file(path);
  return {std::istreambuf_iterator<char>(file), {}};
}

TEST(CoordinatorScenarioTest, RecordedActionsComeOut) {
  int num_played = 0;
  for (const auto& entry : fs::directory_iterator("tests/scenarios/coordinator")) {
    if (entry.path().extension() != ".txt") continue;
    SCOPED_TRACE(entry.path().string());
    const std::string recorded = ReadFile(entry.path());
    const std::string played = Play(recorded);
    if (std::getenv("TRIBUTARY_REWRITE_SCENARIOS") != nullptr) {
      std::ofstream(entry.path()) << played;
    }
    EXPECT_EQ(recorded, played);
    ++num_played;
  }
  EXPECT_GE(num_played, 8);
}

}  // namespace
}  // namespace tributary

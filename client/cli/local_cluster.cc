#include "client/cli/local_cluster.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <optional>
#include <thread>

#include "base/status.h"
#include "base/thread_pool.h"
#include "client/api/client.h"
#include "client/cli/model_dir.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace tributary {
namespace {

namespace fs = std::filesystem;

constexpr double kStartTimeoutS = 60;  // of one process, or of all registrations
constexpr double kStopTimeoutS = 15;
// SIGTERM lets running requests end for this long; a second Ctrl-C ends everything at once.
constexpr int kDrainTimeoutS = 30;
constexpr auto kPollInterval = std::chrono::milliseconds(10);
// All processes are on this host: no port of the data plane opens to the network.
const std::string kLoopback = "lo";

fs::path OwnFolder() {
  std::error_code error;
  const fs::path self = fs::read_symlink("/proc/self/exe", error);
  return self.parent_path();
}

std::optional<ProcessAddresses> ReadPortFile(const fs::path& path) {
  std::ifstream file(path);
  if (!file) return std::nullopt;
  const auto json = nlohmann::json::parse(file, nullptr, false);
  if (!json.is_object() || !json.contains("listen")) return std::nullopt;  // not written to its end yet
  return ProcessAddresses{json["listen"].get<std::string>(), json.value("metrics", "")};
}

void AddFlag(std::vector<std::string>& flags, const char* name, const std::string& value) {
  if (value.empty()) return;
  flags.push_back(name);
  flags.push_back(value);
}

void AddFlag(std::vector<std::string>& flags, const char* name, uint64_t value) {
  if (value != 0) AddFlag(flags, name, fmt::format("{}", value));
}

// A GPU's layers follow each other within a fraction of a millisecond: nodes and worker that sleep in between cost more
// than the layer. The host device needs the cores itself.
uint64_t SpinUs(const ClusterOptions& options) {
  constexpr uint64_t kBesideGpuUs = 1000;
  const bool all_host = std::all_of(options.devices.begin(), options.devices.end(),
                                    [](const std::string& device) { return device == "host"; });
  return all_host ? 0 : kBesideGpuUs;  // 0: the servers' own default
}

// All nodes together get as many threads as there are cores, since they answer the same query at the same time.
uint64_t NodeThreads(const ClusterOptions& options) {
  if (options.node_threads != 0) return options.node_threads;
  return std::max<size_t>(1, AllowedCpus().size() / std::max(1u, options.cpu_nodes));
}

uint32_t AliveNodes(const v1::StatusResponse& status, v1::NodeRole role) {
  uint32_t count = 0;
  for (const auto& node : status.nodes()) count += node.role() == role && node.state() == "alive" ? 1 : 0;
  return count;
}

}  // namespace

uint32_t MetricsPort(const ClusterOptions& options, size_t place) {
  return options.metrics_base_port == 0 ? 0 : options.metrics_base_port + static_cast<uint32_t>(place);
}

absl::StatusOr<std::unique_ptr<LocalCluster>> LocalCluster::Start(const ClusterOptions& options,
                                                                  const std::function<bool()>& stop_requested) {
  TRIBUTARY_RETURN_IF_ERROR(CheckModelDir(options.model_dir));
  std::unique_ptr<LocalCluster> cluster(new LocalCluster(options));
  TRIBUTARY_RETURN_IF_ERROR(cluster->PrepareLogDir());
  if (absl::Status started = cluster->StartAll(stop_requested); !started.ok()) {
    if (!absl::IsCancelled(started)) cluster->KeepLogs();
    return started;
  }
  return cluster;
}

LocalCluster::~LocalCluster() {
  (void)Stop();  // whoever cares for the outcome has called Stop()
  if (options_.log_dir.empty() && !keep_logs_ && !log_dir_.empty()) {
    std::error_code ignored;
    fs::remove_all(log_dir_, ignored);
  }
}

absl::Status LocalCluster::PrepareLogDir() {
  std::error_code error;
  if (!options_.log_dir.empty()) {
    log_dir_ = options_.log_dir;
    fs::create_directories(log_dir_, error);
    if (error) {
      return absl::UnavailableError(fmt::format("cannot make the log folder '{}': {}", log_dir_, error.message()));
    }
    return absl::OkStatus();
  }
  std::string pattern = fs::temp_directory_path(error) / "tributary-XXXXXX";
  if (mkdtemp(pattern.data()) == nullptr) {
    return absl::UnavailableError(
        fmt::format("cannot make a log folder like '{}': {}; give one with --log-dir", pattern, std::strerror(errno)));
  }
  log_dir_ = pattern;
  return absl::OkStatus();
}

absl::Status LocalCluster::StartAll(const std::function<bool()>& stop_requested) {
  TRIBUTARY_ASSIGN_OR_RETURN(secret_, NewSecretFile::Create(fs::path(log_dir_) / "cluster.secret"));
  TRIBUTARY_RETURN_IF_ERROR(StartOne(
      "coordinator", "tributary-coordinator",
      {"--listen", options_.listen, "--drain-timeout-s", fmt::format("{}", kDrainTimeoutS)}, 0, stop_requested));

  for (uint32_t i = 0; i < options_.cpu_nodes; ++i) {
    const std::string id = fmt::format("cpu-{}", i);
    std::vector<std::string> flags = {"--listen", "127.0.0.1:0", "--coordinator", coordinator(), "--node-id", id};
    AddFlag(flags, "--kv-pool-bytes", options_.kv_pool_bytes);
    AddFlag(flags, "--threads", NodeThreads(options_));
    AddFlag(flags, "--spin-us", SpinUs(options_));
    AddFlag(flags, "--transport-tls", options_.transport_tls);
    AddFlag(flags, "--transport-net-devices", kLoopback);
    TRIBUTARY_RETURN_IF_ERROR(
        StartOne(id, "tributary-cpu-attention", std::move(flags), 1 + options_.devices.size() + i, stop_requested));
  }

  for (size_t i = 0; i < options_.devices.size(); ++i) {
    const std::string id = fmt::format("gpu-{}", i);
    std::vector<std::string> flags = {
        "--listen", "127.0.0.1:0", "--coordinator",    coordinator(), "--node-id",
        id,         "--model",     options_.model_dir, "--device",    options_.devices[i]};
    AddFlag(flags, "--load-format", options_.load_format);
    AddFlag(flags, "--compute-dtype", options_.compute_dtype);
    AddFlag(flags, "--weight-dtype", options_.weight_dtype);
    AddFlag(flags, "--threads", options_.worker_threads);
    AddFlag(flags, "--spin-us", SpinUs(options_));
    AddFlag(flags, "--resident-pool-bytes", options_.resident_pool_bytes);
    AddFlag(flags, "--max-batch", options_.max_batch);
    AddFlag(flags, "--max-prefill-tokens", options_.max_prefill_tokens);
    AddFlag(flags, "--transport-tls", options_.transport_tls);
    AddFlag(flags, "--transport-net-devices", kLoopback);
    if (i == 0) AddFlag(flags, "--trace-file", options_.trace_file);
    TRIBUTARY_RETURN_IF_ERROR(StartOne(id, "tributary-gpu-worker", std::move(flags), 1 + i, stop_requested));
  }
  return WaitForMembers(stop_requested);
}

absl::Status LocalCluster::StartOne(const std::string& name, const std::string& binary, std::vector<std::string> flags,
                                    size_t place, const std::function<bool()>& stop_requested) {
  const fs::path port_file = fs::path(log_dir_) / (name + ".json");
  std::error_code ignored;
  fs::remove(port_file, ignored);
  std::vector<std::string> arguments = {OwnFolder() / binary};
  arguments.insert(arguments.end(), flags.begin(), flags.end());
  AddFlag(arguments, "--metrics-listen", fmt::format("127.0.0.1:{}", MetricsPort(options_, place)));
  AddFlag(arguments, "--port-file", port_file.string());
  AddFlag(arguments, "--cluster-secret-file", secret_.path());
  AddFlag(arguments, "--log-level", options_.log_level);
  TRIBUTARY_ASSIGN_OR_RETURN(ChildProcess child,
                             ChildProcess::Start(name, arguments, fs::path(log_dir_) / (name + ".log")));
  children_.push_back(std::make_unique<ChildProcess>(std::move(child)));
  addresses_.emplace_back();
  death_reported_.push_back(false);

  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(kStartTimeoutS);
  while (true) {
    const bool runs = children_.back()->Poll();
    if (auto addresses = ReadPortFile(port_file); runs && addresses.has_value()) {
      addresses_.back() = *std::move(addresses);
      return absl::OkStatus();
    }
    if (!runs) return DeathOf(*children_.back());
    if (stop_requested()) return absl::CancelledError("interrupted");
    if (std::chrono::steady_clock::now() >= end) {
      return absl::DeadlineExceededError(fmt::format("{} did not say within {:.0f} s where it listens; its log is {}",
                                                     name, kStartTimeoutS, children_.back()->log_path()));
    }
    std::this_thread::sleep_for(kPollInterval);
  }
}

absl::Status LocalCluster::WaitForMembers(const std::function<bool()>& stop_requested) {
  Client client(coordinator());
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(kStartTimeoutS);
  while (true) {
    for (const auto& child : children_) {
      if (!child->Poll()) return DeathOf(*child);
    }
    TRIBUTARY_ASSIGN_OR_RETURN(status_, client.Status());
    const uint32_t workers = AliveNodes(status_, v1::NODE_ROLE_GPU_WORKER);
    const uint32_t nodes = AliveNodes(status_, v1::NODE_ROLE_CPU_ATTENTION);
    if (workers == options_.devices.size() && nodes == options_.cpu_nodes) return absl::OkStatus();
    if (stop_requested()) return absl::CancelledError("interrupted");
    if (std::chrono::steady_clock::now() >= end) {
      return absl::DeadlineExceededError(
          fmt::format("after {:.0f} s only {} of {} GPU workers and {} of {} CPU nodes have "
                      "registered; logs are in {}",
                      kStartTimeoutS, workers, options_.devices.size(), nodes, options_.cpu_nodes, log_dir_));
    }
    std::this_thread::sleep_for(kPollInterval);
  }
}

absl::Status LocalCluster::DeathOf(ChildProcess& child) const {
  const std::string said = child.LastError();
  return absl::UnavailableError(fmt::format("{} {}: {} (log: {})", child.name(), child.exit_text(),
                                            said.empty() ? "it said nothing" : said, child.log_path()));
}

std::vector<std::string> LocalCluster::ReportDeaths() {
  std::vector<std::string> lines;
  for (size_t i = 0; i < children_.size(); ++i) {
    if (death_reported_[i] || children_[i]->Poll()) continue;
    death_reported_[i] = true;
    keep_logs_ = true;
    lines.emplace_back(DeathOf(*children_[i]).message());
  }
  return lines;
}

absl::Status LocalCluster::Stop() {
  if (stopped_) return absl::OkStatus();
  stopped_ = true;
  std::vector<ChildProcess*> alive;
  for (const auto& child : children_) {
    if (child->Poll()) alive.push_back(child.get());
  }
  std::string failures;
  const auto end_one = [&](ChildProcess& child, double timeout_s) {
    if (!child.WaitForEnd(timeout_s)) {
      child.Signal(SIGKILL);
      child.WaitForEnd(timeout_s);
      failures += fmt::format("{} did not stop within {:.0f} s and was killed; ", child.name(), timeout_s);
    } else if (!child.exited_cleanly()) {
      failures += fmt::format("{} {}: {}; ", child.name(), child.exit_text(), child.LastError());
    }
  };
  if (!alive.empty() && alive.front() == children_.front().get()) {
    alive.front()->Signal(SIGTERM);
    end_one(*alive.front(), kDrainTimeoutS + kStopTimeoutS);
    alive.erase(alive.begin());
  }
  for (ChildProcess* child : alive) child->Signal(SIGTERM);
  for (ChildProcess* child : alive) end_one(*child, kStopTimeoutS);
  secret_.Remove();
  if (failures.empty()) return absl::OkStatus();
  keep_logs_ = true;
  return absl::InternalError(fmt::format("{}logs are in {}", failures, log_dir_));
}

}  // namespace tributary

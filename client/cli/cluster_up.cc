#include "client/cli/cluster_up.h"

#include <chrono>
#include <string>
#include <thread>

#include "base/outside_text.h"
#include "base/status.h"
#include "base/whole_file.h"
#include "client/cli/local_cluster.h"
#include "client/terminal/output.h"
#include "fmt/ranges.h"
#include "nlohmann/json.hpp"

namespace tributary {
namespace {

absl::Status WritePortFile(const LocalCluster& cluster, const std::string& path) {
  nlohmann::ordered_json object;
  object["coordinator"] = cluster.coordinator();
  object["log_dir"] = cluster.log_dir();
  nlohmann::ordered_json processes = nlohmann::ordered_json::array();
  for (size_t i = 0; i < cluster.children().size(); ++i) {
    processes.push_back({{"name", cluster.children()[i]->name()},
                         {"pid", cluster.children()[i]->pid()},
                         {"listen", cluster.addresses(i).listen},
                         {"metrics", cluster.addresses(i).metrics}});
  }
  object["processes"] = std::move(processes);
  const absl::Status written =
      WriteWholeFile(path, object.dump(1, ' ', false, nlohmann::ordered_json::error_handler_t::replace) + "\n");
  if (written.ok()) return written;
  return absl::UnavailableError(fmt::format("--port-file: {}", std::string(written.message())));
}

void PrintCluster(const LocalCluster& cluster, double seconds) {
  for (size_t i = 0; i < cluster.children().size(); ++i) {
    const ChildProcess& child = *cluster.children()[i];
    PrintOut("  {:<12} {:<22} pid {:<8} http://{}/metrics\n", child.name(), cluster.addresses(i).listen, child.pid(),
             cluster.addresses(i).metrics);
  }
  PrintOut(
      "ready in {:.1f} s; model {}; logs in {}\n\n  tributary generate --coordinator {} --prompt "
      "'Once upon a time'\n\n"
      "Ctrl-C stops the cluster.\n",
      seconds, Printable(cluster.status_at_start().geometry().model_name()), Printable(cluster.log_dir()),
      cluster.coordinator());
}

}  // namespace

absl::Status ClusterUp(const ClusterOptions& options, Interrupt& stop) {
  if (!options.port_file.empty()) TRIBUTARY_RETURN_IF_ERROR(CheckWritable(options.port_file));
  const auto begin = std::chrono::steady_clock::now();
  PrintOut("starting 1 coordinator, {} GPU worker{} (device {}), {} CPU attention services\n", options.devices.size(),
           options.devices.size() == 1 ? "" : "s", fmt::join(options.devices, ", "), options.cpu_nodes);
  auto started = LocalCluster::Start(options, [&stop] { return stop.stop_requested(); });
  if (absl::IsCancelled(started.status())) return absl::OkStatus();
  TRIBUTARY_RETURN_IF_ERROR(started.status());
  LocalCluster& cluster = **started;
  PrintCluster(cluster, std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
  if (!options.port_file.empty()) TRIBUTARY_RETURN_IF_ERROR(WritePortFile(cluster, options.port_file));
  while (!stop.stop_requested()) {
    for (const std::string& line : cluster.ReportDeaths()) PrintErr("tributary: {}\n", line);
    if (!cluster.coordinator_runs()) {
      return absl::UnavailableError("the coordinator has ended, so the cluster is stopped");
    }
    std::this_thread::sleep_for(std::chrono::milliseconds(100));
  }
  PrintOut("stopping; running requests may end, Ctrl-C again stops at once\n");
  return cluster.Stop();
}

}  // namespace tributary

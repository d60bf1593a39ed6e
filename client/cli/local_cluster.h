// A cluster of processes on this host: one coordinator, a GPU worker for each device, n CPU
// attention services.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "client/cli/child_process.h"
#include "client/cli/options.h"
#include "client/cli/secret_file.h"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

// Where a process can be reached, as it wrote it into its port file.
struct ProcessAddresses {
  std::string listen;
  std::string metrics;
};

// Where the process at this place has its /metrics: the coordinator, GPU workers, CPU nodes, on ports in a row, as
// deploy/prometheus/prometheus.yml scrapes them from 9100 on; 0 (any free one) without options.metrics_base_port.
uint32_t MetricsPort(const ClusterOptions& options, size_t place);

// Thread-compatible; use it on the main thread. Children die with this process, however it ends.
class LocalCluster {
 public:
  // Starts the processes from the folder of this binary and waits until all have registered.
  // `stop_requested` is asked while waiting. An error repeats what the failing process said and
  // names its log; what was started is stopped.
  static absl::StatusOr<std::unique_ptr<LocalCluster>> Start(const ClusterOptions& options,
                                                             const std::function<bool()>& stop_requested);
  ~LocalCluster();
  LocalCluster(const LocalCluster&) = delete;
  LocalCluster& operator=(const LocalCluster&) = delete;

  const std::string& coordinator() const { return addresses_[0].listen; }
  const std::string& log_dir() const { return log_dir_; }
  const v1::StatusResponse& status_at_start() const { return status_; }
  // Children in order of start: coordinator, CPU nodes, GPU workers; addresses(i) belongs to
  // children()[i].
  const std::vector<std::unique_ptr<ChildProcess>>& children() const { return children_; }
  const ProcessAddresses& addresses(size_t child_idx) const { return addresses_[child_idx]; }

  // One line per child that has ended since the last call.
  std::vector<std::string> ReportDeaths();
  bool coordinator_runs() { return children_[0]->Poll(); }

  // SIGTERM to the coordinator first (it drains), then to the others; SIGKILL to what does not end
  // in time. An error names children that had to be killed or failed. Idempotent.
  absl::Status Stop();
  // Leaves the logs where they are (they are deleted with a temporary folder otherwise).
  void KeepLogs() { keep_logs_ = true; }

 private:
  explicit LocalCluster(const ClusterOptions& options) : options_(options) {}

  absl::Status PrepareLogDir();
  absl::Status StartAll(const std::function<bool()>& stop_requested);
  absl::Status StartOne(const std::string& name, const std::string& binary, std::vector<std::string> flags,
                        size_t place, const std::function<bool()>& stop_requested);
  absl::Status WaitForMembers(const std::function<bool()>& stop_requested);
  absl::Status DeathOf(ChildProcess& child) const;

  const ClusterOptions options_;
  std::string log_dir_;
  NewSecretFile secret_;  // that the processes share: nobody else may register with them
  bool keep_logs_ = false;
  bool stopped_ = false;
  std::vector<std::unique_ptr<ChildProcess>> children_;
  std::vector<ProcessAddresses> addresses_;
  std::vector<bool> death_reported_;
  v1::StatusResponse status_;
};

}  // namespace tributary

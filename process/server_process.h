// What every server process of the house does alike: flags, log, signals, limits, metrics, health, drain.
//
//   int main(int argc, char** argv) {
//     return RunServerProgram(argc, argv, {"tributary-coordinator", "coordinator", "Admits requests, ..."},
//                             [&](CLI::App& app) { AddFlags(app, flags); },
//                             [&](ServerProcess& process) { return Run(flags, process); });
//   }
//
// The run function puts the server together in this order:
//   SetBuildInfo(), StartMetrics()    what can be observed while the rest starts
//   PublishAddress(rpc, address)      the port file; the last step that can fail
//   SetServing(rpc, line)             health SERVING, state "serving", the ready line in the log
//   WaitForStop()                     a signal, or Refuse(); health NOT_SERVING, state "draining"
//   Drain(idle)                       time for what runs; then the server is taken apart
//   return refusal()
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/clock.h"
#include "process/metrics_endpoint.h"
#include "process/server_flags.h"
#include "process/stop_signals.h"
#include "rpc/rpc_server.h"
#include "rpc/security/rpc_security.h"
#include "telemetry/build_info.h"
#include "telemetry/metrics.h"

namespace tributary {

// Made by RunServerProgram(), one per process. Refuse() and the registry are thread-safe.
class ServerProcess {
 public:
  ServerProcess(const ServerFlags& flags, std::shared_ptr<RpcSecurity> security);

  const ServerFlags& flags() const { return flags_; }
  // Who this process is, for its servers and channels.
  const std::shared_ptr<RpcSecurity>& security() const { return security_; }
  MetricRegistry& registry() { return registry_; }

  // Versions of libraries, for tributary_build_info; "" where there is none. gRPC's is known.
  void SetBuildInfo(std::string_view ucx_release);
  // /metrics, if --metrics-listen asks for it. INVALID_ARGUMENT or UNAVAILABLE: the address.
  absl::Status StartMetrics();
  // "host:port" of /metrics, or "".
  std::string metrics_address() const;

  // Writes --port-file and counts the server's connections from now on. `address`: by what others reach it.
  absl::Status PublishAddress(const RpcServer& rpc, const std::string& address);
  // The process serves: `ready_line` goes to the log. `rpc` outlives WaitForStop().
  void SetServing(RpcServer& rpc, std::string_view ready_line);

  // Asks the process to stop: it has no reason to go on. Thread-safe.
  void Refuse(const absl::Status& reason) { refusal_.Set(reason); }
  // OK, or why the process had to stop.
  absl::Status refusal() const { return refusal_.Get(); }

  // Waits until the process is to stop, and stops serving: health says so, so that nobody sends anything new.
  void WaitForStop();
  // Gives what runs its time: polls `idle` until it is true, or until --drain-timeout-s have passed (false). At once
  // true if the process was refused.
  bool Drain(const std::function<bool()>& idle);

 private:
  const ServerFlags flags_;
  const std::shared_ptr<RpcSecurity> security_;
  StopSignals stop_;
  Refusal refusal_{&stop_};
  MetricRegistry registry_;
  ServiceStateMetric state_{registry_};
  std::unique_ptr<MetricsEndpoint> metrics_;
  RpcServer* rpc_ = nullptr;  // once it serves
};

struct ServerProgram {
  std::string name;         // of the binary
  std::string log_name;     // in each log line
  std::string description;  // for --help
  PeerRole role = PeerRole::kClient;
};

// The main() of a server: adds the shared flags to those of `add_flags`, parses, sets up log and limits, and runs.
// Returns the exit status: 0, or 1 with an error on stderr.
int RunServerProgram(int argc, char** argv, const ServerProgram& program,
                     const std::function<void(CLI::App& app)>& add_flags,
                     const std::function<absl::Status(ServerProcess& process)>& run);

}  // namespace tributary

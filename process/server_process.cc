#include "process/server_process.h"

#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <exception>
#include <sstream>
#include <thread>
#include <utility>

#include "CLI/CLI.hpp"
#include "base/log.h"
#include "base/outside_text.h"
#include "base/status.h"
#include "base/version.h"
#include "process/fd_limit.h"
#include "process/flags/number_flags.h"
#include "process/port_file.h"
#include "process/rpc_metrics.h"
#include "telemetry/process_collector.h"

namespace tributary {
namespace {

constexpr int64_t kDrainPollNs = 20 * kNsPerMs;
// What peers sent before they heard of the draining may still be on its way.
constexpr int64_t kUnderWayNs = 100 * kNsPerMs;

// --help and --version. The exit status: 1, with the reason on stderr, if standard output does not take it.
int PrintAsked(const CLI::App& app, const CLI::Success& asked, const std::string& name) {
  std::ostringstream text, nothing;
  (void)app.exit(asked, text, nothing);
  errno = 0;
  if (std::fputs(text.str().c_str(), stdout) >= 0 && std::fflush(stdout) == 0) return 0;
  std::fprintf(stderr, "%s: cannot write to standard output: %s\n", name.c_str(), std::strerror(errno));
  return 1;
}

}  // namespace

ServerProcess::ServerProcess(const ServerFlags& flags, std::shared_ptr<RpcSecurity> security)
    : flags_(flags), security_(std::move(security)) {
  AddProcessMetrics(registry_);
  AddSecurityMetrics(security_, registry_);
  if (security_->proof() == PeerProof::kNothing) {
    LOG_WARN(
        "gRPC asks nobody who he is: whoever can connect may do everything; --tls-cert, --tls-key and --tls-ca, or "
        "--cluster-secret-file change that (SECURITY.md)");
  }
}

void ServerProcess::SetBuildInfo(std::string_view ucx_release) { AddBuildInfo(registry_, ucx_release, GrpcVersion()); }

absl::Status ServerProcess::StartMetrics() {
  if (flags_.metrics_listen.empty()) return absl::OkStatus();
  TRIBUTARY_ASSIGN_OR_RETURN(metrics_, MetricsEndpoint::Start(flags_.metrics_listen, registry_));
  return absl::OkStatus();
}

std::string ServerProcess::metrics_address() const { return metrics_ == nullptr ? "" : metrics_->address(); }

absl::Status ServerProcess::PublishAddress(const RpcServer& rpc, const std::string& address) {
  AddRpcMetrics(rpc, registry_);
  if (flags_.port_file.empty()) return absl::OkStatus();
  return WritePortFile(flags_.port_file, address, metrics_address());
}

void ServerProcess::SetServing(RpcServer& rpc, std::string_view ready_line) {
  rpc_ = &rpc;
  rpc.SetServing(true);
  state_.Set(ServiceState::kServing);
  LOG_INFO("{}", ready_line);
}

void ServerProcess::WaitForStop() {
  stop_.Wait();
  rpc_->SetServing(false);
  state_.Set(ServiceState::kDraining);
}

bool ServerProcess::Drain(const std::function<bool()>& idle) {
  if (!refusal().ok()) return true;
  const RealClock clock;
  const int64_t begin_ns = clock.NowNs();
  const int64_t end_ns = begin_ns + int64_t{flags_.drain_timeout_s} * kNsPerS;
  while (true) {
    const bool is_idle = idle();
    const int64_t now_ns = clock.NowNs();
    if (is_idle && now_ns - begin_ns >= kUnderWayNs) return true;
    if (now_ns >= end_ns) return is_idle;
    std::this_thread::sleep_for(std::chrono::nanoseconds(kDrainPollNs));
  }
}

int RunServerProgram(int argc, char** argv, const ServerProgram& program,
                     const std::function<void(CLI::App& app)>& add_flags,
                     const std::function<absl::Status(ServerProcess& process)>& run) {
  CLI::App app(program.description);
  app.set_version_flag("--version", std::string(VersionText()));
  ServerFlags flags;
  add_flags(app);
  AddServerFlags(app, &flags);
  CheckNumberFlags(app);
  try {
    app.parse(argc, argv);
  } catch (const CLI::Success& asked) {
    return PrintAsked(app, asked, program.name);
  } catch (const CLI::ParseError& error) {
    std::fprintf(stderr, "%s: %s\n'%s --help' has the flags.\n", program.name.c_str(),
                 Printable(ExplainNumberError(app, error.what())).c_str(), program.name.c_str());
    return 1;
  }
  absl::Status status = InitLogging(program.log_name, flags.log_level);
  if (status.ok()) {
    RaiseFdLimit();
    auto security = RpcSecurity::Make(flags.security, program.role);
    status = security.status();
    if (security.ok()) {
      ServerProcess process(flags, *std::move(security));
      status = run(process);
    }
  }
  if (status.ok()) return 0;
  std::fprintf(stderr, "%s: %s\n", program.name.c_str(), Printable(std::string(status.message())).c_str());
  return 1;
}

}  // namespace tributary

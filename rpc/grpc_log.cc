#include "rpc/grpc_log.h"

#include <cstdlib>
#include <optional>

#include "base/clock.h"
#include "base/log.h"
#include "base/rate_limit.h"
#include "grpc/support/log.h"

namespace tributary {
namespace {

constexpr uint32_t kErrorsPerSecond = 5;

}  // namespace

void internal::LogGrpcLine(bool is_error, std::string_view file, int line, std::string_view message) {
  const std::string_view name = file.substr(file.rfind('/') + 1);
  if (!is_error) {
    LOG_INFO("gRPC: {} ({}:{})", message, name, line);
    return;
  }
  static RateLimit limit(kNsPerS, kErrorsPerSecond);
  const std::optional<uint64_t> held_back = limit.Admit(RealClock().NowNs());
  if (!held_back.has_value()) return;
  if (*held_back > 0) LOG_WARN("gRPC: {} more errors were not logged", *held_back);
  LOG_WARN("gRPC: {} ({}:{})", message, name, line);
}

void RouteGrpcLog() {
  [[maybe_unused]] static const bool routed = [] {
    if (std::getenv("GRPC_VERBOSITY") == nullptr) gpr_set_log_verbosity(GPR_LOG_SEVERITY_ERROR);
    gpr_set_log_function([](gpr_log_func_args* args) {
      internal::LogGrpcLine(args->severity == GPR_LOG_SEVERITY_ERROR, args->file, args->line, args->message);
    });
    return true;
  }();
}

}  // namespace tributary

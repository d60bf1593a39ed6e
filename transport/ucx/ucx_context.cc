#include "transport/ucx/ucx_context.h"

#include <ucs/debug/debug.h>
#include <ucs/debug/log_def.h>

#include <algorithm>
#include <csignal>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <string_view>
#include <utility>

#include "base/log.h"
#include "base/status.h"
#include "fmt/format.h"
#include "transport/ucx/ucx_status.h"

namespace tributary {
namespace {

struct ReleaseConfig {
  void operator()(ucp_config_t* config) const { ucp_config_release(config); }
};
using UcxConfig = std::unique_ptr<ucp_config_t, ReleaseConfig>;

// UCX writes to stdout by itself, which belongs to the program's answer. A dead peer is an error to
// UCX and our daily weather, so its errors are warnings here.
ucs_log_func_rc_t LogFromUcx(const char* file, unsigned line, const char* function, ucs_log_level_t level,
                             const ucs_log_component_config_t* component, const char* format, va_list arguments) {
  if (level > component->log_level && level != UCS_LOG_LEVEL_PRINT) return UCS_LOG_FUNC_RC_STOP;
  char text[512];
  va_list copy;
  va_copy(copy, arguments);
  std::vsnprintf(text, sizeof(text), format, copy);
  va_end(copy);
  // Settings of a transport that is switched off; ApplySettings() makes them anyway.
  const bool unused_setting = std::string_view(text).starts_with("invalid configuration");
  if (level == UCS_LOG_LEVEL_FATAL) {
    LOG_ERROR("ucx: {}", text);
  } else if (level <= UCS_LOG_LEVEL_WARN && !unused_setting) {
    LOG_WARN("ucx: {}", text);
  } else {
    LOG_DEBUG("ucx: {}", text);
  }
  return UCS_LOG_FUNC_RC_STOP;
}

// Process-wide, once. UCX installed its handlers when the library was loaded, before any setting of
// ours could tell it not to: core dumps and sanitizers need them gone.
void TameLibrary() {
  static std::once_flag once;
  std::call_once(once, [] {
    for (const int signal : {SIGILL, SIGSEGV, SIGBUS, SIGFPE}) ucs_debug_disable_signal(signal);
    ucs_log_push_handler(LogFromUcx);
  });
}

absl::Status Modify(ucp_config_t* config, const std::string& name, const std::string& value) {
  return StatusFromUcx(ucp_config_modify(config, name.c_str(), value.c_str()),
                       fmt::format("UCX setting {}={}", name, value));
}

absl::Status ApplySettings(const UcxOptions& options, ucp_config_t* config) {
  const std::string keepalive = fmt::format("{}us", std::max<int64_t>(options.keepalive_interval_ns / 1000, 1));
  const std::pair<std::string, std::string> required[] = {
      // Without it, error mode PEER takes shared memory (posix and sysv) away and co-located
      // processes fall back to TCP.
      // A transport's setting goes by its name within the transport: UCX_POSIX_ERROR_HANDLING is
      // this one.
      {"MM_ERROR_HANDLING", "y"},
      // The default of 20 s is how long a killed peer over shared memory goes unnoticed.
      {"KEEPALIVE_INTERVAL", keepalive},
      // One arena, registered once: a cache of registrations would need hooks in mmap and munmap.
      {"RCACHE_ENABLE", "n"},
      // A query or partial of 16 KiB in one piece instead of three. The sender goes by its own value when it writes
      // into the receiver's segments: on a change, raise kUcxSettingsVersion. (Lengths are 16 bits wide: 64 KiB would
      // wrap.)
      {"MM_SEG_SIZE", "32K"},
      // UCX's default is 64, from 1.16 on 256: the segments of a queue that goes round sooner are still in the cache
      // when they are written anew. On a 16-core Xeon with 1.16 sending four frames of 4 KiB takes 6 to 8 us instead of
      // 10. The sender goes by its own value here, too.
      {"MM_FIFO_SIZE", "32"},
      // As many bytes of segments as by UCX's defaults (512 of 8 KiB).
      {"MM_RX_BUFS_GROW", "128"},
      // TCP's kernel keepalive, for hosts that vanish while nothing is sent.
      {"KEEPIDLE", "1s"},
      {"KEEPINTVL", "1s"},
      {"KEEPCNT", "3"},
  };
  for (const auto& [name, value] : required) {
    TRIBUTARY_RETURN_IF_ERROR(Modify(config, name, value));
  }
  const std::pair<std::string, std::string> chosen[] = {
      {"TLS", options.tls}, {"NET_DEVICES", options.net_devices}, {"PORT_RANGE", options.tcp_port_range}};
  for (const auto& [name, value] : chosen) {
    if (!value.empty()) TRIBUTARY_RETURN_IF_ERROR(Modify(config, name, value));
  }
  return absl::OkStatus();
}

}  // namespace

std::string UcxRelease() {
  const char* text = ucp_get_version_string();
  unsigned major = 0, minor = 0, patch = 0;
  ucp_get_version(&major, &minor, &patch);
  return text != nullptr ? fmt::format("{}.{}.{}", major, minor, patch) : "unknown";
}

absl::StatusOr<UcxContext> UcxContext::Create(const UcxOptions& options) {
  TameLibrary();
  ucp_config_t* raw_config = nullptr;
  TRIBUTARY_RETURN_IF_ERROR(
      StatusFromUcx(ucp_config_read(nullptr, nullptr, &raw_config), "reading the UCX configuration"));
  const UcxConfig config(raw_config);
  TRIBUTARY_RETURN_IF_ERROR(ApplySettings(options, config.get()));

  ucp_params_t params{};
  params.field_mask = UCP_PARAM_FIELD_FEATURES | UCP_PARAM_FIELD_MT_WORKERS_SHARED;
  params.features = UCP_FEATURE_AM | UCP_FEATURE_WAKEUP;
  params.mt_workers_shared = 0;
  ucp_context_h handle = nullptr;
  TRIBUTARY_RETURN_IF_ERROR(StatusFromUcx(ucp_init(&params, config.get(), &handle),
                                          fmt::format("starting UCX with transports '{}' on devices '{}'; see ucx_info "
                                                      "-d for what this host has",
                                                      options.tls, options.net_devices)));
  const char* environment = std::getenv("UCX_TLS");
  std::string transports = options.tls;
  if (transports.empty()) transports = environment != nullptr ? environment : "all";
  return UcxContext(handle, std::move(transports));
}

UcxContext::UcxContext(UcxContext&& other) noexcept
    : handle_(std::exchange(other.handle_, nullptr)), transports_(std::move(other.transports_)) {}

UcxContext::~UcxContext() {
  if (handle_ != nullptr) ucp_cleanup(handle_);
}

}  // namespace tributary

// Logging: spdlog with one process-wide logger on stderr. Never per message on the hot path. Control characters in a
// message are escaped, so that what it quotes from outside can neither forge a line nor steer a terminal.
//
//   LOG_INFO("node {} registered with {} bytes", id, bytes);
//
// Levels by volume: error (somebody must act), warn (degraded), info (per request or object), debug (per step).
#pragma once

#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "spdlog/spdlog.h"

namespace tributary {

// Sets the process's name (shown in each line) and level: "debug", "info", "warn", "error", "off".
// An unknown level is an error that names the value.
absl::Status InitLogging(std::string_view process_name, std::string_view level);

}  // namespace tributary

#define LOG_ERROR(...) ::spdlog::error(__VA_ARGS__)
#define LOG_WARN(...) ::spdlog::warn(__VA_ARGS__)
#define LOG_INFO(...) ::spdlog::info(__VA_ARGS__)
#define LOG_DEBUG(...) ::spdlog::debug(__VA_ARGS__)

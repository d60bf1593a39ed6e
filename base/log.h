// Logging: spdlog with one process-wide logger on stderr. Never per message on the hot path. Control characters in a
// message are escaped, so that what it quotes from outside can neither forge a line nor steer a terminal.
//
//   LOG_INFO("node {} registered with {} bytes", id, bytes);
//
// Levels by volume: error (somebody must act), warn (degraded), info (per request or object), debug (per step).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "fmt/format.h"

namespace tributary {

// Sets the process's name (shown in each line) and level: "debug", "info", "warn", "error", "off".
// An unknown level is an error that names the value.
absl::Status InitLogging(std::string_view process_name, std::string_view level);

enum class LogLevel : uint8_t { kDebug, kInfo, kWarn, kError };

bool IsLogged(LogLevel level);
void WriteLog(LogLevel level, std::string_view message);

}  // namespace tributary

// The message is formatted by fmt::format, which is compiled once: spdlog's own functions would compile all of fmt
// again in each source that logs.
#define TRIBUTARY_LOG(level, ...)                                                               \
  do {                                                                                          \
    if (::tributary::IsLogged(level)) ::tributary::WriteLog(level, ::fmt::format(__VA_ARGS__)); \
  } while (false)
#define LOG_ERROR(...) TRIBUTARY_LOG(::tributary::LogLevel::kError, __VA_ARGS__)
#define LOG_WARN(...) TRIBUTARY_LOG(::tributary::LogLevel::kWarn, __VA_ARGS__)
#define LOG_INFO(...) TRIBUTARY_LOG(::tributary::LogLevel::kInfo, __VA_ARGS__)
#define LOG_DEBUG(...) TRIBUTARY_LOG(::tributary::LogLevel::kDebug, __VA_ARGS__)

#include "base/log.h"

#include "fmt/format.h"
#include "spdlog/sinks/stdout_color_sinks.h"

namespace tributary {

absl::Status InitLogging(std::string_view process_name, std::string_view level) {
  const std::string name(level);
  const spdlog::level::level_enum parsed = spdlog::level::from_str(name);
  if (parsed == spdlog::level::off && name != "off") {
    return absl::InvalidArgumentError(
        fmt::format("unknown log level '{}'; use debug, info, warn, error or off", level));
  }
  spdlog::drop(std::string(process_name));  // set up again: a name registered twice would throw
  auto logger = spdlog::stderr_color_mt(std::string(process_name));
  logger->set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%L%$ %n[%P] %v");
  logger->set_level(parsed);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  return absl::OkStatus();
}

}  // namespace tributary

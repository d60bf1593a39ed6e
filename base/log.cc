#include "base/log.h"

#include <memory>
#include <string>
#include <utility>

#include "base/outside_text.h"
#include "fmt/format.h"
#include "spdlog/pattern_formatter.h"
#include "spdlog/sinks/stdout_color_sinks.h"
#include "spdlog/spdlog.h"

namespace tributary {
namespace {

// The message with control characters escaped: it may quote what came from outside.
class PrintableMessage final : public spdlog::custom_flag_formatter {
 public:
  void format(const spdlog::details::log_msg& message, const std::tm&, spdlog::memory_buf_t& line) override {
    const std::string_view text(message.payload.data(), message.payload.size());
    if (IsPrintable(text)) {
      line.append(text.data(), text.data() + text.size());
      return;
    }
    const std::string printable = Printable(text);
    line.append(printable.data(), printable.data() + printable.size());
  }
  std::unique_ptr<custom_flag_formatter> clone() const override { return std::make_unique<PrintableMessage>(); }
};

spdlog::level::level_enum SpdlogLevel(LogLevel level) {
  switch (level) {
    case LogLevel::kDebug:
      return spdlog::level::debug;
    case LogLevel::kInfo:
      return spdlog::level::info;
    case LogLevel::kWarn:
      return spdlog::level::warn;
    case LogLevel::kError:
      return spdlog::level::err;
  }
  return spdlog::level::err;
}

}  // namespace

bool IsLogged(LogLevel level) { return spdlog::should_log(SpdlogLevel(level)); }

void WriteLog(LogLevel level, std::string_view message) {
  spdlog::default_logger_raw()->log(SpdlogLevel(level), spdlog::string_view_t(message.data(), message.size()));
}

absl::Status InitLogging(std::string_view process_name, std::string_view level) {
  const std::string name(level);
  const spdlog::level::level_enum parsed = spdlog::level::from_str(name);
  if (parsed == spdlog::level::off && name != "off") {
    return absl::InvalidArgumentError(
        fmt::format("unknown log level '{}'; use debug, info, warn, error or off", level));
  }
  spdlog::drop(std::string(process_name));  // set up again: a name registered twice would throw
  auto logger = spdlog::stderr_color_mt(std::string(process_name));
  auto formatter = std::make_unique<spdlog::pattern_formatter>();
  formatter->add_flag<PrintableMessage>('*').set_pattern("%Y-%m-%dT%H:%M:%S.%e %^%L%$ %n[%P] %*");
  logger->set_formatter(std::move(formatter));
  logger->set_level(parsed);
  logger->flush_on(spdlog::level::info);
  spdlog::set_default_logger(std::move(logger));
  return absl::OkStatus();
}

}  // namespace tributary

#include "telemetry/step_trace.h"

#include <utility>

#include "base/whole_file.h"
#include "fmt/format.h"

namespace tributary {
namespace {

std::string JsonEscaped(std::string_view text) {
  std::string escaped;
  for (const char c : text) {
    if (c == '"' || c == '\\') escaped += '\\';
    escaped += static_cast<unsigned char>(c) < 0x20 ? ' ' : c;
  }
  return escaped;
}

}  // namespace

void StepTrace::NameLane(uint32_t lane, std::string name) { lane_names_.emplace_back(lane, std::move(name)); }

absl::Status StepTrace::WriteChromeTrace(const std::string& path, const std::string& process_name) const {
  if (!on()) return absl::OkStatus();
  std::string text;
  text += fmt::format(
      "{{\"displayTimeUnit\":\"ns\",\"traceEvents\":[\n"
      "{{\"ph\":\"M\",\"pid\":1,\"name\":\"process_name\",\"args\":{{\"name\":\"{}\"}}}}",
      JsonEscaped(process_name));
  for (const auto& [lane, name] : lane_names_) {
    text += fmt::format(
        ",\n{{\"ph\":\"M\",\"pid\":1,\"tid\":{},\"name\":\"thread_name\",\"args\":{{"
        "\"name\":\"{}\"}}}}",
        lane, JsonEscaped(name));
  }
  for (size_t i = 0; i < ring_.size(); ++i) {
    const Span& span = ring_[(next_ + i) % ring_.size()];
    text += fmt::format(
        ",\n{{\"ph\":\"X\",\"pid\":1,\"tid\":{},\"name\":\"{}\",\"ts\":{:.3f},\"dur\":{:.3f},"
        "\"args\":{{\"step\":{},\"layer\":{}}}}}",
        span.lane, JsonEscaped(span.name), static_cast<double>(span.begin_ns) * 1e-3,
        static_cast<double>(span.end_ns - span.begin_ns) * 1e-3, span.step_id, span.layer);
  }
  text += "\n]}\n";
  const absl::Status written = WriteWholeFile(path, text);
  if (written.ok()) return written;
  return absl::UnavailableError(fmt::format("the trace: {}; is its folder there?", std::string(written.message())));
}

}  // namespace tributary

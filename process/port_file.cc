#include "process/port_file.h"

#include "base/whole_file.h"
#include "fmt/format.h"

namespace tributary {

absl::Status WritePortFile(const std::string& path, const std::string& listen_address,
                           const std::string& metrics_address) {
  const absl::Status written = WriteWholeFile(
      path, fmt::format("{{\"listen\": \"{}\", \"metrics\": \"{}\"}}\n", listen_address, metrics_address));
  if (written.ok()) return written;
  return absl::UnavailableError(fmt::format("--port-file: {}; does the folder exist?", std::string(written.message())));
}

}  // namespace tributary

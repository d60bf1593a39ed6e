#include "process/port_file.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <fstream>

#include "fmt/format.h"

namespace tributary {

absl::Status WritePortFile(const std::string& path, const std::string& listen_address,
                           const std::string& metrics_address) {
  const std::string part = fmt::format("{}.{}.part", path, getpid());
  std::ofstream file(part);
  file << fmt::format("{{\"listen\": \"{}\", \"metrics\": \"{}\"}}\n", listen_address, metrics_address);
  file.close();
  if (!file || std::rename(part.c_str(), path.c_str()) != 0) {
    const std::string reason = std::strerror(errno);
    std::remove(part.c_str());
    return absl::UnavailableError(
        fmt::format("cannot write --port-file '{}': {}; does the folder exist?", path, reason));
  }
  return absl::OkStatus();
}

}  // namespace tributary

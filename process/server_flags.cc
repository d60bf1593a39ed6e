#include "process/server_flags.h"

#include <unistd.h>

#include <cctype>

#include "CLI/CLI.hpp"
#include "base/limits.h"
#include "base/outside_text.h"
#include "base/random_id.h"
#include "fmt/format.h"
#include "process/flags/security_flags.h"

namespace tributary {
namespace {

constexpr size_t kMaxHostBytes = 32;

}  // namespace

void AddServerFlags(CLI::App& app, ServerFlags* flags) {
  app.add_option("--listen", flags->listen, "HOST:PORT of the gRPC server; port 0 takes a free one")
      ->capture_default_str();
  app.add_option("--metrics-listen", flags->metrics_listen, "HOST:PORT for /metrics; without it there is none");
  app.add_option("--port-file", flags->port_file,
                 "Writes the addresses in use to this file, as JSON, once the process serves");
  app.add_option("--drain-timeout-s", flags->drain_timeout_s,
                 "Time for running requests after SIGTERM; a second SIGTERM ends the process")
      ->capture_default_str();
  app.add_option("--log-level", flags->log_level, "debug, info, warn, error or off")->capture_default_str();
  AddSecurityFlags(app, &flags->security);
}

void AddDataPlaneFlags(CLI::App& app, DataPlaneFlags* flags) {
  app.add_option("--spin-us", flags->spin_us,
                 "How long to poll before sleeping; beside a GPU, longer than a layer takes: 1000")
      ->check(CLI::Range(0u, 1'000'000u))
      ->capture_default_str();
  app.add_option("--transport-tls", flags->transport_tls,
                 "UCX transports, e.g. posix,sysv,self or tcp,self; all by default");
  app.add_option("--transport-net-devices", flags->transport_net_devices,
                 "Network devices of the data plane, e.g. eth0; UCX opens a TCP port on each: name one");
  app.add_flag("--data-plane-mac", flags->mac,
               "Tags frames with an AES-GMAC instead of a CRC, so that what somebody changes on the network is found, "
               "too; on every node and worker or none");
}

std::string DefaultNodeId(const std::string& role) {
  char name[256] = {};
  std::string host;
  if (gethostname(name, sizeof(name) - 1) == 0) {
    // Of letters, digits and hyphens, as the names of hosts are; without the domain.
    for (const char c : std::string_view(name).substr(0, kMaxHostBytes)) {
      if (c == '.') break;
      host += std::isalnum(static_cast<unsigned char>(c)) != 0 ? c : '-';
    }
  }
  return fmt::format("{}-{}-{:06x}", role, host.empty() ? "host" : host, RandomId() & 0xffffff);
}

void AddNodeIdFlag(CLI::App& app, std::string* node_id, const std::string& help) {
  app.add_option("--node-id", *node_id, help)->capture_default_str()->check([](const std::string& id) {
    if (id.empty()) return std::string("must not be empty");
    return std::string(CheckOutsideText("it", id, limits::kMaxNodeIdBytes).message());
  });
}

}  // namespace tributary

// The flags that server processes share, in the same words.
#pragma once

#include <cstdint>
#include <string>

#include "rpc/security/security_options.h"

namespace CLI {
class App;
}

namespace tributary {

// Every server has these.
struct ServerFlags {
  std::string listen = "127.0.0.1:0";
  std::string metrics_listen;  // "" = no /metrics
  std::string port_file;       // "" = none
  std::string log_level = "info";
  uint32_t drain_timeout_s = 60;
  SecurityOptions security;
};

// Servers with a data plane have these: workers and nodes.
struct DataPlaneFlags {
  uint32_t spin_us = 50;
  std::string transport_tls;
  std::string transport_net_devices;
  bool mac = false;
};

void AddServerFlags(CLI::App& app, ServerFlags* flags);
void AddDataPlaneFlags(CLI::App& app, DataPlaneFlags* flags);
// --node-id of the cluster's members; checks its length and that it is printable. Without it `node_id` stays as it is.
void AddNodeIdFlag(CLI::App& app, std::string* node_id, const std::string& help);
// "gpu-HOST-5f03c2" for the role "gpu": a name that nothing else in the cluster has, nor the next run of this process.
std::string DefaultNodeId(const std::string& role);

}  // namespace tributary

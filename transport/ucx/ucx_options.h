// Settings of the UCX data plane.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>

namespace tributary {

struct UcxOptions {
  // UCX_TLS, e.g. "posix,sysv,self" or "tcp,self"; "" = what the environment says, else all.
  std::string tls;
  // UCX_NET_DEVICES, e.g. "eth0"; "" = what the environment says, else all. UCX listens on each
  // one: restrict it.
  std::string net_devices;
  // UCX_TCP_PORT_RANGE, e.g. "7000-7099"; "" = what the environment says, else any port.
  std::string tcp_port_range;
  // Memory for frames to send, and for bulk frames being received. Reserved at start, touched as it
  // is used.
  size_t send_arena_bytes = size_t{128} << 20;
  size_t recv_arena_bytes = size_t{128} << 20;
  // How fast the death of a peer over shared memory is noticed.
  int64_t keepalive_interval_ns = 1'000'000'000;
  // Connect() refuses a peer of another UCX release (major.minor): releases do not mix safely on
  // one host.
  bool allow_other_releases = false;
};

}  // namespace tributary

// Listening TCP sockets for "host:port".
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"

namespace tributary {

struct ListenSockets {
  std::vector<int> fds;      // the caller's to close; non-blocking, close-on-exec
  std::string address;       // "host:port" with the port that was taken
  bool is_loopback = false;  // no other host can connect to any of them
};

// One socket for each address of the host, all on one port (0: a free one). 0.0.0.0 and [::] are all addresses of both
// families where the system has both. A taken port is an error, even if another address has it free. INVALID_ARGUMENT:
// not host:port; UNAVAILABLE with the system's reason.
absl::StatusOr<ListenSockets> OpenListenSockets(std::string_view listen, int backlog);

}  // namespace tributary

// How many files and sockets this process may have open.
#pragma once

#include <cstdint>

namespace tributary {

struct FdLimit {
  uint64_t before = 0;  // the soft limit that the process was started with
  uint64_t now = 0;
  uint64_t hard = 0;
};

// Raises the soft limit (RLIMIT_NOFILE, 1,024 on most systems) to the hard one, and logs what there is. Call once at
// start: servers measure their share of descriptors by it (rpc/tcp_acceptor.h). The metric process_max_fds shows it.
FdLimit RaiseFdLimit();

}  // namespace tributary

#include "process/fd_limit.h"

#include <sys/resource.h>

#include <cerrno>
#include <cstring>

#include "base/log.h"

namespace tributary {
namespace {

// A coordinator of a few nodes and clients gets along with this; below it, connections are soon refused.
constexpr uint64_t kComfortableLimit = 1024;

}  // namespace

FdLimit RaiseFdLimit() {
  rlimit limit{};
  if (getrlimit(RLIMIT_NOFILE, &limit) != 0) {
    LOG_WARN("cannot read the limit of open files: {}", std::strerror(errno));
    return {};
  }
  FdLimit result{limit.rlim_cur, limit.rlim_cur, limit.rlim_max};
  if (limit.rlim_cur < limit.rlim_max) {
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) == 0) {
      result.now = limit.rlim_cur;
    } else {
      LOG_WARN("cannot raise the limit of open files from {} to {}: {}", result.before, result.hard,
               std::strerror(errno));
    }
  }
  if (result.now < kComfortableLimit) {
    LOG_WARN("at most {} files and connections may be open; raise the hard limit (ulimit -Hn, LimitNOFILE=)",
             result.now);
  } else {
    LOG_INFO("at most {} files and connections may be open (raised from {})", result.now, result.before);
  }
  return result;
}

}  // namespace tributary

// Processes of this host: one says who it is; another that can see it learns when it ends, at once, without asking it.
#pragma once

#include <sys/types.h>

#include <cstdint>
#include <memory>
#include <string>

namespace tributary {

// Who a process is, for others of its host.
struct ProcessIdentity {
  std::string boot_id;         // of the running kernel; "" if it cannot be read
  uint64_t pid_namespace = 0;  // in which `pid` counts
  int64_t pid = 0;
  uint64_t start_ticks = 0;  // since boot: pids are used again
};
ProcessIdentity ThisProcess();

// Watches a process until it ends, by a descriptor of the kernel (pidfd). Thread-compatible.
class ProcessWatch {
 public:
  // Null if the process is not of this host and pid namespace, has ended already, or the kernel cannot watch it:
  // nothing is known of it then.
  static std::unique_ptr<ProcessWatch> Open(const ProcessIdentity& process);
  ~ProcessWatch();
  ProcessWatch(const ProcessWatch&) = delete;
  ProcessWatch& operator=(const ProcessWatch&) = delete;

  bool HasEnded() const;

 private:
  explicit ProcessWatch(int fd) : fd_(fd) {}

  const int fd_;
};

}  // namespace tributary

#include "process/local_process.h"

#include <poll.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <array>
#include <fstream>
#include <sstream>

#include "fmt/format.h"

namespace tributary {
namespace {

std::string BootId() {
  std::string id;
  std::ifstream("/proc/sys/kernel/random/boot_id") >> id;
  return id;
}

// The number in "pid:[4026531836]"; 0 if it cannot be read.
uint64_t PidNamespace() {
  std::array<char, 64> link{};
  const ssize_t size = readlink("/proc/self/ns/pid", link.data(), link.size() - 1);
  uint64_t number = 0;
  for (ssize_t i = 0; i < size; ++i) {
    if (link[i] >= '0' && link[i] <= '9') number = 10 * number + static_cast<uint64_t>(link[i] - '0');
  }
  return number;
}

// Field 22 of /proc/PID/stat (proc(5)); 0 if there is no such process.
uint64_t StartTicks(int64_t pid) {
  std::ifstream file(fmt::format("/proc/{}/stat", pid));
  std::string line;
  if (!std::getline(file, line)) return 0;
  // The second field is the program's name in brackets, which may hold anything.
  std::istringstream fields(line.substr(line.rfind(')') + 1));
  std::string field;
  for (int i = 3; i < 22; ++i) fields >> field;
  uint64_t ticks = 0;
  fields >> ticks;
  return ticks;
}

}  // namespace

ProcessIdentity ThisProcess() { return {BootId(), PidNamespace(), getpid(), StartTicks(getpid())}; }

std::unique_ptr<ProcessWatch> ProcessWatch::Open(const ProcessIdentity& process) {
  const ProcessIdentity self = ThisProcess();
  const bool is_visible = !self.boot_id.empty() && process.boot_id == self.boot_id && self.pid_namespace != 0 &&
                          process.pid_namespace == self.pid_namespace;
  if (!is_visible || process.pid <= 0) return nullptr;
  const int fd = static_cast<int>(syscall(SYS_pidfd_open, static_cast<pid_t>(process.pid), 0));
  if (fd < 0) return nullptr;
  auto watch = std::unique_ptr<ProcessWatch>(new ProcessWatch(fd));
  // Looked at after the descriptor is there: it is of this process, or of none.
  return StartTicks(process.pid) == process.start_ticks ? std::move(watch) : nullptr;
}

ProcessWatch::~ProcessWatch() { close(fd_); }

bool ProcessWatch::HasEnded() const {
  pollfd wait{fd_, POLLIN, 0};
  return poll(&wait, 1, 0) > 0;
}

}  // namespace tributary

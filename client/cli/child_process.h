// One child process with its output in a log file. It dies with its parent.
#pragma once

#include <sys/types.h>

#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"

namespace tributary {

// Thread-compatible. Start children on the main thread: the kernel ties their lives to the thread
// that forks.
class ChildProcess {
 public:
  // `arguments[0]` is the binary's path. Output of both kinds is appended to `log_path`.
  // UNAVAILABLE if the binary cannot be run.
  static absl::StatusOr<ChildProcess> Start(std::string name, const std::vector<std::string>& arguments,
                                            std::string log_path);
  ChildProcess(ChildProcess&& other) noexcept;
  ChildProcess& operator=(ChildProcess&&) = delete;
  // Kills it if it still runs.
  ~ChildProcess();

  const std::string& name() const { return name_; }
  const std::string& log_path() const { return log_path_; }
  pid_t pid() const { return pid_; }

  // True while it runs; once it has ended, exit_text() says how.
  bool Poll();
  void Signal(int signal);
  // Waits for the end; false if it still runs after `timeout_s`.
  bool WaitForEnd(double timeout_s);

  bool exited_cleanly() const { return wait_status_.has_value() && *wait_status_ == 0; }
  // "exited with status 1", "was killed by signal 9 (Killed)"
  std::string exit_text() const;
  // The last error that it logged, without the log's prefix; "" if it wrote nothing.
  std::string LastError() const;

 private:
  ChildProcess(std::string name, std::string log_path, pid_t pid)
      : name_(std::move(name)), log_path_(std::move(log_path)), pid_(pid) {}

  std::string name_;
  std::string log_path_;
  pid_t pid_ = -1;
  std::optional<int> wait_status_;
};

// The last error line of a log, without prefix; else its last line that is not blank.
std::string LastErrorLine(const std::string& log);

}  // namespace tributary

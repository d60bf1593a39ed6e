#include "client/cli/child_process.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <chrono>
#include <csignal>
#include <cstring>
#include <fstream>
#include <iterator>
#include <sstream>
#include <string_view>
#include <thread>

#include "fmt/format.h"

namespace tributary {
namespace {

// Runs between fork and exec: only async-signal-safe calls.
[[noreturn]] void ExecChild(char* const* argv, int log_fd, pid_t parent) {
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, nullptr);
  signal(SIGPIPE, SIG_DFL);
  setpgid(0, 0);  // a terminal's Ctrl-C reaches the parent only, which stops the children in order
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  if (getppid() != parent) _exit(127);  // the parent died before the line above
  const int null_fd = open("/dev/null", O_RDONLY);
  dup2(null_fd, STDIN_FILENO);
  dup2(log_fd, STDOUT_FILENO);
  dup2(log_fd, STDERR_FILENO);
  execv(argv[0], argv);
  static constexpr char kFailed[] = "cannot execute the binary\n";
  (void)!write(STDERR_FILENO, kFailed, sizeof(kFailed) - 1);
  _exit(127);
}

}  // namespace

absl::StatusOr<ChildProcess> ChildProcess::Start(std::string name, const std::vector<std::string>& arguments,
                                                 std::string log_path) {
  if (access(arguments[0].c_str(), X_OK) != 0) {
    return absl::UnavailableError(
        fmt::format("cannot run '{}': {}; build it with ./dev build, and keep the binaries in "
                    "one folder",
                    arguments[0], std::strerror(errno)));
  }
  const int log_fd = open(log_path.c_str(), O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
  if (log_fd < 0) {
    return absl::UnavailableError(fmt::format("cannot write the log '{}': {}", log_path, std::strerror(errno)));
  }
  std::vector<char*> argv;
  for (const std::string& argument : arguments) argv.push_back(const_cast<char*>(argument.c_str()));
  argv.push_back(nullptr);
  const pid_t parent = getpid();
  const pid_t pid = fork();
  if (pid == 0) ExecChild(argv.data(), log_fd, parent);
  close(log_fd);
  if (pid < 0) {
    return absl::UnavailableError(fmt::format("cannot start {}: {}", name, std::strerror(errno)));
  }
  return ChildProcess(std::move(name), std::move(log_path), pid);
}

ChildProcess::ChildProcess(ChildProcess&& other) noexcept
    : name_(std::move(other.name_)),
      log_path_(std::move(other.log_path_)),
      pid_(other.pid_),
      wait_status_(other.wait_status_) {
  other.pid_ = -1;
}

ChildProcess::~ChildProcess() {
  if (pid_ < 0 || !Poll()) return;
  kill(pid_, SIGKILL);
  waitpid(pid_, nullptr, 0);
}

bool ChildProcess::Poll() {
  if (wait_status_.has_value()) return false;
  int wait_status = 0;
  const pid_t result = waitpid(pid_, &wait_status, WNOHANG);
  if (result == 0 || (result < 0 && errno == EINTR)) return true;
  wait_status_ = wait_status;
  return false;
}

void ChildProcess::Signal(int signal) {
  if (!wait_status_.has_value()) kill(pid_, signal);
}

bool ChildProcess::WaitForEnd(double timeout_s) {
  const auto end = std::chrono::steady_clock::now() + std::chrono::duration<double>(timeout_s);
  while (Poll()) {
    if (std::chrono::steady_clock::now() >= end) return false;
    std::this_thread::sleep_for(std::chrono::milliseconds(5));
  }
  return true;
}

std::string ChildProcess::exit_text() const {
  if (!wait_status_.has_value()) return "is running";
  if (WIFSIGNALED(*wait_status_)) {
    const int signal = WTERMSIG(*wait_status_);
    return fmt::format("was killed by signal {} ({})", signal, strsignal(signal));
  }
  return fmt::format("exited with status {}", WEXITSTATUS(*wait_status_));
}

std::string ChildProcess::LastError() const {
  std::ifstream file(log_path_, std::ios::binary);
  return LastErrorLine(std::string(std::istreambuf_iterator<char>(file), {}));
}

namespace {

// A log line of base/log.cc, "2026-01-01T00:00:00.000 E tributary-gpu-worker[12] the message": its level and message;
// level 0 for any other line.
struct LogLine {
  char level = 0;
  std::string_view message;
};

LogLine ParseLogLine(std::string_view line) {
  const size_t level = line.find(' ') + 1;
  const size_t name = level + 2;
  const size_t message = line.find("] ", name);
  const bool is_log = level > 1 && name < line.size() && line[level + 1] == ' ' &&
                      std::string_view("EWID").find(line[level]) != std::string_view::npos &&
                      message != std::string_view::npos && line.find(' ', name) == message + 1;
  return is_log ? LogLine{line[level], line.substr(message + 2)} : LogLine{0, line};
}

// "tributary-coordinator: the message", which a main prints before it exits with 1: the message, or "".
std::string_view FinalMessage(std::string_view line) {
  const size_t colon = line.find(": ");
  const bool is_final =
      line.starts_with("tributary-") && colon != std::string_view::npos && line.find(' ') == colon + 1;
  return is_final ? line.substr(colon + 2) : std::string_view();
}

// What stands behind the error of a flag: where its help is.
bool IsAdvice(std::string_view line) {
  return line.starts_with("Run with --help") || (line.starts_with('\'') && line.ends_with("--help' has the flags."));
}

}  // namespace

std::string LastErrorLine(const std::string& log) {
  std::string last_error, last_line;
  std::istringstream lines(log);
  for (std::string line; std::getline(lines, line);) {
    if (line.find_first_not_of(" \t\r") == std::string::npos || IsAdvice(line)) continue;
    const LogLine parsed = ParseLogLine(line);
    last_line = parsed.message;
    if (parsed.level == 'E') last_error = parsed.message;
    if (const std::string_view final_message = FinalMessage(line); !final_message.empty()) last_error = final_message;
  }
  return last_error.empty() ? last_line : last_error;
}

}  // namespace tributary

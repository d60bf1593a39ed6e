#include "rpc/tcp_acceptor.h"

#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "fmt/format.h"
#include "rpc/listen_socket.h"

namespace tributary {
namespace {

constexpr int64_t kReportIntervalNs = kNsPerS;
constexpr int kPauseMs = 100;  // while there is no descriptor at all

uint64_t SoftLimit() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

}  // namespace

int DescriptorCeiling(uint64_t soft_limit, uint32_t max_connections) {
  const uint64_t reserve = std::clamp<uint64_t>(soft_limit / 8, 32, 1024);
  const uint64_t by_limit = soft_limit > 2 * reserve ? soft_limit - reserve : soft_limit / 2;
  return static_cast<int>(std::min({by_limit, reserve + max_connections, uint64_t{1} << 30}));
}

absl::StatusOr<std::unique_ptr<TcpAcceptor>> TcpAcceptor::Listen(std::string_view listen,
                                                                 const TcpAcceptorOptions& options) {
  TRIBUTARY_ASSIGN_OR_RETURN(ListenSockets sockets, OpenListenSockets(listen, options.backlog));
  if (options.loopback_only && !sockets.is_loopback) {
    for (const int fd : sockets.fds) close(fd);
    return absl::FailedPreconditionError(fmt::format("'{}' is open to other hosts", listen));
  }
  const int stop_fd = eventfd(0, EFD_CLOEXEC);
  if (stop_fd < 0) {
    const int error = errno;
    for (const int fd : sockets.fds) close(fd);
    return absl::UnavailableError(fmt::format("cannot listen on '{}': {}", listen, std::strerror(error)));
  }
  return std::unique_ptr<TcpAcceptor>(
      new TcpAcceptor(options, std::move(sockets.fds), stop_fd, std::move(sockets.address)));
}

TcpAcceptor::TcpAcceptor(const TcpAcceptorOptions& options, std::vector<int> listen_fds, int stop_fd,
                         std::string address)
    : options_(options),
      ceiling_(options.max_connections > 0 ? DescriptorCeiling(SoftLimit(), options.max_connections) : 1 << 30),
      address_(std::move(address)),
      stop_fd_(stop_fd),
      listen_fds_(std::move(listen_fds)) {}

TcpAcceptor::~TcpAcceptor() {
  Stop();
  close(stop_fd_);
}

void TcpAcceptor::Start(OnConnection on_connection) {
  on_connection_ = std::move(on_connection);
  thread_ = std::thread([this] { Serve(); });
}

void TcpAcceptor::Stop() {
  const uint64_t one = 1;
  (void)!write(stop_fd_, &one, sizeof(one));
  if (thread_.joinable()) thread_.join();
  for (const int fd : listen_fds_) close(fd);
  listen_fds_.clear();
}

void TcpAcceptor::Serve() {
  std::vector<pollfd> fds;
  for (const int fd : listen_fds_) fds.push_back({fd, POLLIN, 0});
  fds.push_back({stop_fd_, POLLIN, 0});
  while (true) {
    const bool unreported = counters_->refused.load(std::memory_order_relaxed) > num_reported_;
    if (poll(fds.data(), fds.size(), unreported ? kReportIntervalNs / kNsPerMs : -1) < 0 && errno != EINTR) return;
    if (fds.back().revents != 0) return;
    for (size_t i = 0; i + 1 < fds.size(); ++i) {
      if (fds[i].revents != 0) Accept(fds[i].fd);
    }
    ReportRefusals();
  }
}

void TcpAcceptor::Accept(int listen_fd) {
  const int fd = accept4(listen_fd, nullptr, nullptr, SOCK_CLOEXEC | (options_.non_blocking ? SOCK_NONBLOCK : 0));
  if (fd < 0) {
    if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
      // The connection stays pending: wait for the stop or for a descriptor instead of spinning.
      counters_->refused.fetch_add(1, std::memory_order_relaxed);
      pollfd stop{stop_fd_, POLLIN, 0};
      poll(&stop, 1, kPauseMs);
    }
    return;  // else the peer has left already, or there was none
  }
  if (fd >= ceiling_) {
    close(fd);
    counters_->refused.fetch_add(1, std::memory_order_relaxed);
    return;
  }
  sockaddr_storage peer{};
  socklen_t size = sizeof(peer);
  if (getpeername(fd, reinterpret_cast<sockaddr*>(&peer), &size) != 0) {  // it has left already
    close(fd);
    return;
  }
  const int yes = 1;
  setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &yes, sizeof(yes));
  if (options_.user_timeout_ns > 0) {
    const int timeout_ms = static_cast<int>(options_.user_timeout_ns / kNsPerMs);
    setsockopt(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &timeout_ms, sizeof(timeout_ms));
  }
  counters_->accepted.fetch_add(1, std::memory_order_relaxed);
  on_connection_(listen_fd, fd);
}

void TcpAcceptor::ReportRefusals() {
  const uint64_t refused = counters_->refused.load(std::memory_order_relaxed) - num_reported_;
  const int64_t now_ns = RealClock().NowNs();
  if (refused == 0 || (num_reported_ > 0 && now_ns - last_report_ns_ < kReportIntervalNs)) return;
  LOG_WARN(
      "{} at {}: {} connections refused, because all file descriptors below {} are in use (limit {}, the rest is kept "
      "for the process itself); close connections or raise the limit (ulimit -n)",
      options_.what, address_, refused, std::min<uint64_t>(ceiling_, SoftLimit()), SoftLimit());
  num_reported_ += refused;
  last_report_ns_ = now_ns;
}

}  // namespace tributary

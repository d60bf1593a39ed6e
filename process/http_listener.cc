#include "process/http_listener.h"

#include <microhttpd.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <thread>
#include <utility>
#include <vector>

#include "base/status.h"
#include "fmt/format.h"
#include "rpc/listen_socket.h"

namespace tributary {
namespace {

constexpr int kBacklog = 1024;
constexpr unsigned kIdleTimeoutS = 10;               // of a connection that neither sends nor reads
constexpr size_t kConnectionMemoryBytes = 16 << 10;  // of a request's head, and of an answer's
constexpr int kPauseMs = 100;                        // while there is no descriptor at all

uint64_t MaxFds() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return limit.rlim_cur;
}

MHD_Result Respond(MHD_Connection* connection, unsigned status, const char* type, const std::string& body) {
  MHD_Response* response = MHD_create_response_from_buffer(body.size(), const_cast<char*>(body.data()),
                                                           MHD_RESPMEM_MUST_COPY);  // it is read, not written
  if (response == nullptr) return MHD_NO;
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONTENT_TYPE, type);
  MHD_add_response_header(response, MHD_HTTP_HEADER_CONNECTION, "close");
  if (status == MHD_HTTP_METHOD_NOT_ALLOWED) MHD_add_response_header(response, MHD_HTTP_HEADER_ALLOW, "GET");
  const MHD_Result queued = MHD_queue_response(connection, status, response);
  MHD_destroy_response(response);
  return queued;
}

}  // namespace

class HttpListener::Impl {
 public:
  Impl(std::string path, PageMaker make_page, ListenSockets sockets)
      : path_(std::move(path)), make_page_(std::move(make_page)), sockets_(std::move(sockets)) {}

  ~Impl() {
    if (thread_.joinable()) {
      const uint64_t one = 1;
      (void)!write(stop_fd_, &one, sizeof(one));
      thread_.join();
    }
    if (daemon_ != nullptr) MHD_stop_daemon(daemon_);
    if (stop_fd_ >= 0) close(stop_fd_);
    for (const int fd : sockets_.fds) close(fd);
  }

  absl::Status Start() {
    stop_fd_ = eventfd(0, EFD_CLOEXEC);
    // The limit is twice the ceiling: those that were told to go may still be there when newcomers are.
    daemon_ =
        MHD_start_daemon(MHD_USE_EPOLL | MHD_USE_NO_LISTEN_SOCKET, 0, nullptr, nullptr, &Impl::OnRequest, this,
                         MHD_OPTION_CONNECTION_LIMIT, static_cast<unsigned>(2 * max_connections_),
                         MHD_OPTION_CONNECTION_TIMEOUT, kIdleTimeoutS, MHD_OPTION_CONNECTION_MEMORY_LIMIT,
                         kConnectionMemoryBytes, MHD_OPTION_NOTIFY_CONNECTION, &Impl::OnChange, this, MHD_OPTION_END);
    if (stop_fd_ < 0 || daemon_ == nullptr) {
      return absl::UnavailableError(fmt::format("cannot listen on '{}': {}", sockets_.address, std::strerror(errno)));
    }
    thread_ = std::thread([this] { Serve(); });
    return absl::OkStatus();
  }

  const std::string& address() const { return sockets_.address; }

 private:
  static MHD_Result OnRequest(void* self, MHD_Connection* connection, const char* url, const char* method,
                              const char* version, const char* upload, size_t* upload_bytes, void** of_request) {
    const Impl& impl = *static_cast<Impl*>(self);
    if (std::string_view(method) != MHD_HTTP_METHOD_GET) {
      return Respond(connection, MHD_HTTP_METHOD_NOT_ALLOWED, "text/plain", "only GET is understood\n");
    }
    if (url != impl.path_) {
      return Respond(connection, MHD_HTTP_NOT_FOUND, "text/plain", fmt::format("only {} is here\n", impl.path_));
    }
    return Respond(connection, MHD_HTTP_OK, "text/plain; version=0.0.4; charset=utf-8", impl.make_page_());
  }

  // A connection came or went.
  static void OnChange(void* self, MHD_Connection* connection, void** of_connection,
                       MHD_ConnectionNotificationCode code) {
    Impl& impl = *static_cast<Impl*>(self);
    const int fd = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD)->connect_fd;
    if (code == MHD_CONNECTION_NOTIFY_STARTED) {
      impl.open_fds_.push_back(fd);
      ++impl.num_staying_;
      return;
    }
    const auto it = std::find(impl.open_fds_.begin(), impl.open_fds_.end(), fd);
    if (it == impl.open_fds_.end()) return;
    if (it >= impl.open_fds_.end() - static_cast<ptrdiff_t>(impl.num_staying_)) --impl.num_staying_;
    impl.open_fds_.erase(it);
  }

  void Serve() {
    const int daemon_fd = MHD_get_daemon_info(daemon_, MHD_DAEMON_INFO_EPOLL_FD)->epoll_fd;
    std::vector<pollfd> fds = {{stop_fd_, POLLIN, 0}, {daemon_fd, POLLIN, 0}};
    for (const int fd : sockets_.fds) fds.push_back({fd, POLLIN, 0});
    while (true) {
      MHD_UNSIGNED_LONG_LONG due_ms = 0;
      const int timeout_ms =
          MHD_get_timeout(daemon_, &due_ms) == MHD_YES ? static_cast<int>(std::min(due_ms, 60'000ULL)) : -1;
      if (poll(fds.data(), fds.size(), timeout_ms) < 0 && errno != EINTR) return;
      if (fds[0].revents != 0) return;
      for (size_t i = 2; i < fds.size(); ++i) {
        if (fds[i].revents != 0) Accept(fds[i].fd);
      }
      MHD_run(daemon_);
    }
  }

  void Accept(int listen_fd) {
    if (open_fds_.size() >= 2 * max_connections_) return;  // those that were told to go are closed first
    sockaddr_storage peer{};
    socklen_t peer_bytes = sizeof(peer);
    const int fd = accept4(listen_fd, reinterpret_cast<sockaddr*>(&peer), &peer_bytes, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd >= 0) {
      MHD_add_connection(daemon_, fd, reinterpret_cast<sockaddr*>(&peer), peer_bytes);  // closes it if it fails
      if (num_staying_ > max_connections_) SendOldestAway();
      return;
    }
    if (errno != EMFILE && errno != ENFILE && errno != ENOBUFS && errno != ENOMEM) return;
    if (num_staying_ > 0) return SendOldestAway();
    // The connection stays pending: wait for the stop or for a descriptor instead of spinning.
    pollfd stop{stop_fd_, POLLIN, 0};
    poll(&stop, 1, kPauseMs);
  }

  // The daemon sees its end and closes it.
  void SendOldestAway() {
    shutdown(open_fds_[open_fds_.size() - num_staying_], SHUT_RDWR);
    --num_staying_;
  }

  const std::string path_;
  const PageMaker make_page_;
  const size_t max_connections_ = HttpListener::MaxConnections(MaxFds());
  ListenSockets sockets_;
  int stop_fd_ = -1;  // an eventfd
  MHD_Daemon* daemon_ = nullptr;
  // The thread alone uses these.
  std::vector<int> open_fds_;  // oldest first
  size_t num_staying_ = 0;     // the last ones of them; those before were told to go
  std::thread thread_;
};

size_t HttpListener::MaxConnections(uint64_t max_fds) {
  return static_cast<size_t>(std::clamp<uint64_t>(max_fds / 16, 8, 64));
}

absl::StatusOr<std::unique_ptr<HttpListener>> HttpListener::Start(std::string_view listen, std::string path,
                                                                  PageMaker make_page) {
  TRIBUTARY_ASSIGN_OR_RETURN(ListenSockets sockets, OpenListenSockets(listen, kBacklog));
  auto impl = std::make_unique<Impl>(std::move(path), std::move(make_page), std::move(sockets));
  TRIBUTARY_RETURN_IF_ERROR(impl->Start());
  return std::unique_ptr<HttpListener>(new HttpListener(std::move(impl)));
}

HttpListener::HttpListener(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}

HttpListener::~HttpListener() = default;

const std::string& HttpListener::address() const { return impl_->address(); }

}  // namespace tributary

#include "telemetry/http_listener.h"

#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <cerrno>
#include <charconv>
#include <chrono>
#include <cstring>
#include <optional>
#include <utility>

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr int kBacklog = 16;
constexpr int kConnectionTimeoutS = 2;  // of each read and write
constexpr int kMaxReads = 8;            // so that a client that drips bytes cannot hold the thread
constexpr size_t kMaxRequestBytes = 8192;

// The port of "host:port", or nothing.
std::optional<uint16_t> PortOf(std::string_view listen) {
  const size_t colon = listen.rfind(':');
  if (colon == std::string_view::npos || colon == 0) return std::nullopt;
  uint16_t port = 0;
  const char* end = listen.data() + listen.size();
  const auto [stop, error] = std::from_chars(listen.data() + colon + 1, end, port);
  if (error != std::errc() || stop != end) return std::nullopt;
  return port;
}

absl::Status CannotListen(std::string_view listen, const char* why) {
  return absl::UnavailableError(
      fmt::format("cannot listen on {}: {}; choose another address, or port 0 for any", listen, why));
}

// A bound and listening socket.
absl::StatusOr<int> OpenSocket(std::string_view listen) {
  if (!PortOf(listen).has_value()) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is not host:port; use for example 127.0.0.1:9100, or port 0 for any", listen));
  }
  const size_t colon = listen.rfind(':');
  std::string host(listen.substr(0, colon));
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);  // IPv6
  addrinfo hints{};
  hints.ai_family = AF_UNSPEC;
  hints.ai_socktype = SOCK_STREAM;
  hints.ai_flags = AI_PASSIVE;
  addrinfo* found = nullptr;
  const int error = getaddrinfo(host.c_str(), std::string(listen.substr(colon + 1)).c_str(), &hints, &found);
  if (error != 0) return CannotListen(listen, gai_strerror(error));
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, &freeaddrinfo);

  const int fd = socket(addresses->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return CannotListen(listen, std::strerror(errno));
  const int yes = 1;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (bind(fd, addresses->ai_addr, addresses->ai_addrlen) != 0 || ::listen(fd, kBacklog) != 0) {
    const absl::Status status = CannotListen(listen, std::strerror(errno));
    close(fd);
    return status;
  }
  return fd;
}

uint16_t BoundPort(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

}  // namespace

absl::StatusOr<std::unique_ptr<HttpListener>> HttpListener::Start(std::string_view listen, std::string path,
                                                                  PageMaker make_page) {
  TRIBUTARY_ASSIGN_OR_RETURN(const int listen_fd, OpenSocket(listen));
  const int stop_fd = eventfd(0, EFD_CLOEXEC);
  if (stop_fd < 0) {
    close(listen_fd);
    return CannotListen(listen, std::strerror(errno));
  }
  std::string address = fmt::format("{}:{}", listen.substr(0, listen.rfind(':')), BoundPort(listen_fd));
  return std::unique_ptr<HttpListener>(
      new HttpListener(listen_fd, stop_fd, std::move(address), std::move(path), std::move(make_page)));
}

HttpListener::HttpListener(int listen_fd, int stop_fd, std::string address, std::string path, PageMaker make_page)
    : listen_fd_(listen_fd),
      stop_fd_(stop_fd),
      address_(std::move(address)),
      path_(std::move(path)),
      make_page_(std::move(make_page)),
      thread_([this] { Serve(); }) {}

HttpListener::~HttpListener() {
  const uint64_t one = 1;
  (void)!write(stop_fd_, &one, sizeof(one));
  thread_.join();
  close(listen_fd_);
  close(stop_fd_);
}

void HttpListener::Serve() {
  pollfd fds[] = {{listen_fd_, POLLIN, 0}, {stop_fd_, POLLIN, 0}};
  while (true) {
    if (poll(fds, 2, -1) < 0 && errno != EINTR) return;
    if (fds[1].revents != 0) return;
    const int fd = accept4(listen_fd_, nullptr, nullptr, SOCK_CLOEXEC);
    if (fd < 0) {
      // Out of descriptors: the connection stays pending, so wait for the stop instead of spinning.
      if (errno == EMFILE || errno == ENFILE) poll(&fds[1], 1, 100);
      continue;
    }
    Answer(fd);
    close(fd);
  }
}

void HttpListener::Answer(int fd) const {
  const timeval limit{kConnectionTimeoutS, 0};
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof(limit));
  setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
  std::string request;
  char buffer[2048];
  for (int reads = 0; reads < kMaxReads && request.size() < kMaxRequestBytes; ++reads) {
    if (request.find("\r\n\r\n") != std::string::npos) break;
    const ssize_t count = recv(fd, buffer, sizeof(buffer), 0);
    if (count <= 0) return;
    request.append(buffer, static_cast<size_t>(count));
  }
  const std::string response = Response(request);
  // A reader that sips holds the only thread no longer than this.
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(2 * kConnectionTimeoutS);
  for (size_t sent = 0; sent < response.size() && std::chrono::steady_clock::now() < end;) {
    const ssize_t count = send(fd, response.data() + sent, response.size() - sent, MSG_NOSIGNAL);
    if (count <= 0) return;
    sent += static_cast<size_t>(count);
  }
  shutdown(fd, SHUT_WR);
}

std::string HttpListener::Response(std::string_view request) const {
  const auto response = [](std::string_view status, std::string_view type, const std::string& body) {
    return fmt::format("HTTP/1.0 {}\r\nContent-Type: {}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n{}", status,
                       type, body.size(), body);
  };
  const std::string_view line = request.substr(0, request.find("\r\n"));
  const size_t path_begin = line.find(' ');
  const size_t path_end = line.find(' ', path_begin + 1);
  if (request.find("\r\n\r\n") == std::string_view::npos || path_end == std::string_view::npos ||
      line.substr(0, path_begin) != "GET") {
    return response("400 Bad Request", "text/plain", "only GET is understood\n");
  }
  std::string_view path = line.substr(path_begin + 1, path_end - path_begin - 1);
  path = path.substr(0, path.find('?'));
  if (path != path_) return response("404 Not Found", "text/plain", fmt::format("only {} is here\n", path_));
  return response("200 OK", "text/plain; version=0.0.4; charset=utf-8", make_page_());
}

}  // namespace tributary

#include "rpc/listen_socket.h"

#include <netdb.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <charconv>
#include <cstdint>
#include <cstring>
#include <memory>
#include <optional>

#include "base/outside_text.h"
#include "fmt/format.h"

namespace tributary {
namespace {

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

uint16_t BoundPort(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  return ntohs(address.ss_family == AF_INET6 ? reinterpret_cast<sockaddr_in6&>(address).sin6_port
                                             : reinterpret_cast<sockaddr_in&>(address).sin_port);
}

// Whether only this host can connect.
bool IsLoopback(int fd) {
  sockaddr_storage address{};
  socklen_t size = sizeof(address);
  getsockname(fd, reinterpret_cast<sockaddr*>(&address), &size);
  if (address.ss_family == AF_INET6) {
    const in6_addr& host = reinterpret_cast<sockaddr_in6&>(address).sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(&host) || (IN6_IS_ADDR_V4MAPPED(&host) && host.s6_addr[12] == IN_LOOPBACKNET);
  }
  return ntohl(reinterpret_cast<sockaddr_in&>(address).sin_addr.s_addr) >> 24 == IN_LOOPBACKNET;
}

// A listening socket, or -1 with errno.
int Open(sockaddr_storage address, socklen_t size, uint16_t port, int backlog) {
  if (address.ss_family == AF_INET6) {
    reinterpret_cast<sockaddr_in6&>(address).sin6_port = htons(port);
  } else {
    reinterpret_cast<sockaddr_in&>(address).sin_port = htons(port);
  }
  const int fd = socket(address.ss_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
  if (fd < 0) return -1;
  const int yes = 1;
  const int no = 0;
  setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &yes, sizeof(yes));
  if (address.ss_family == AF_INET6) setsockopt(fd, IPPROTO_IPV6, IPV6_V6ONLY, &no, sizeof(no));
  if (bind(fd, reinterpret_cast<const sockaddr*>(&address), size) == 0 && ::listen(fd, backlog) == 0) return fd;
  const int error = errno;
  close(fd);
  errno = error;
  return -1;
}

absl::Status CannotListen(std::string_view listen, const char* why) {
  return absl::UnavailableError(fmt::format(
      "cannot listen on '{}': {}; choose another address, or port 0 for any free one", Printable(listen), why));
}

}  // namespace

absl::StatusOr<ListenSockets> OpenListenSockets(std::string_view listen, int backlog) {
  const std::optional<uint16_t> wanted_port = PortOf(listen);
  if (!wanted_port.has_value()) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is not host:port with a port from 0 to 65535, e.g. 127.0.0.1:0", Printable(listen)));
  }
  const std::string_view shown_host = listen.substr(0, listen.rfind(':'));
  std::string host(shown_host);
  if (host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);  // IPv6
  ListenSockets sockets;
  uint16_t port = *wanted_port;
  if (host == "0.0.0.0" || host == "::") {
    sockaddr_storage any{};
    any.ss_family = AF_INET6;
    if (const int fd = Open(any, sizeof(sockaddr_in6), port, backlog); fd >= 0) sockets.fds.push_back(fd);
    // Else this machine may have no IPv6: the address itself says why.
  }
  int error = EADDRNOTAVAIL;
  if (sockets.fds.empty()) {
    addrinfo hints{};
    hints.ai_family = AF_UNSPEC;
    hints.ai_socktype = SOCK_STREAM;
    hints.ai_flags = AI_PASSIVE;
    addrinfo* found = nullptr;
    const int lookup = getaddrinfo(host.c_str(), nullptr, &hints, &found);
    if (lookup != 0) return CannotListen(listen, gai_strerror(lookup));
    const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, &freeaddrinfo);
    for (const addrinfo* it = found; it != nullptr; it = it->ai_next) {
      sockaddr_storage address{};
      std::memcpy(&address, it->ai_addr, it->ai_addrlen);
      const int fd = Open(address, it->ai_addrlen, port, backlog);
      if (fd < 0) {
        error = errno;
        if (error == EADDRINUSE) break;
        continue;
      }
      sockets.fds.push_back(fd);
      port = BoundPort(fd);
    }
  }
  if (sockets.fds.empty() || error == EADDRINUSE) {
    for (const int fd : sockets.fds) close(fd);
    return CannotListen(listen, std::strerror(error));
  }
  sockets.address = fmt::format("{}:{}", shown_host, BoundPort(sockets.fds.front()));
  sockets.is_loopback = std::all_of(sockets.fds.begin(), sockets.fds.end(), &IsLoopback);
  return sockets;
}

}  // namespace tributary

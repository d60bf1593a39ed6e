// A gRPC server that greets and then stands still, as a stopped process does: the connection stands, and nothing is
// answered any more.
#pragma once

#include <netinet/in.h>
#include <poll.h>
#include <sys/eventfd.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdint>
#include <string>
#include <thread>
#include <vector>

namespace tributary::testing {

class SilentPeer {
 public:
  // Greets each connection `greeting_delay_ms` after it was accepted.
  explicit SilentPeer(int greeting_delay_ms)
      : delay_(greeting_delay_ms), listen_fd_(socket(AF_INET, SOCK_STREAM, 0)), stop_fd_(eventfd(0, 0)) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof(address);
    (void)!bind(listen_fd_, reinterpret_cast<sockaddr*>(&address), sizeof(address));
    (void)!listen(listen_fd_, 16);
    getsockname(listen_fd_, reinterpret_cast<sockaddr*>(&address), &size);
    address_ = "127.0.0.1:" + std::to_string(ntohs(address.sin_port));
    thread_ = std::thread([this] { Serve(); });
  }
  ~SilentPeer() {
    const uint64_t one = 1;
    (void)!write(stop_fd_, &one, sizeof(one));
    thread_.join();
    for (const Connection& connection : connections_) close(connection.fd);
    close(listen_fd_);
    close(stop_fd_);
  }
  SilentPeer(const SilentPeer&) = delete;
  SilentPeer& operator=(const SilentPeer&) = delete;

  const std::string& address() const { return address_; }

 private:
  using Time = std::chrono::steady_clock::time_point;
  struct Connection {
    int fd;
    Time greeting_due;
    bool greeted = false;
  };

  void Serve() {
    pollfd fds[] = {{stop_fd_, POLLIN, 0}, {listen_fd_, POLLIN, 0}};
    while (poll(fds, 2, 10) >= 0 && fds[0].revents == 0) {
      const Time now = std::chrono::steady_clock::now();
      if (fds[1].revents != 0) connections_.push_back({accept(listen_fd_, nullptr, nullptr), now + delay_});
      for (Connection& connection : connections_) {
        if (connection.greeted || now < connection.greeting_due) continue;
        const char settings[] = {0, 0, 0, 4, 0, 0, 0, 0, 0};
        (void)!send(connection.fd, settings, sizeof(settings), MSG_NOSIGNAL);
        connection.greeted = true;
      }
    }
  }

  const std::chrono::milliseconds delay_;
  const int listen_fd_;
  const int stop_fd_;
  std::string address_;
  std::vector<Connection> connections_;  // of the thread
  std::thread thread_;
};

}  // namespace tributary::testing

// Accepts TCP connections for whoever serves them, and stays able to whatever clients do.
//
// gRPC 1.51's own listener stops for good at the first error of accept(), "too many open files" among them: a burst of
// connections leaves the server deaf until it is restarted. This one keeps a share of the process's file descriptors
// free, refuses connections beyond it (accepted and closed at once, so that peers see it), and goes on when
// connections end. How many are open needs no bookkeeping: accept() returns the lowest free descriptor, so that one at
// the ceiling says that all below it are in use.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <thread>
#include <vector>

#include "absl/status/statusor.h"

namespace tributary {

struct TcpAcceptorOptions {
  const char* what = "TCP";      // in log lines
  uint32_t max_connections = 0;  // 0: only descriptors bound them, to the last one
  bool non_blocking = false;     // of the sockets that are handed over
  bool loopback_only = false;    // other hosts must not be able to connect
  int64_t user_timeout_ns = 0;   // a peer that acknowledges nothing for so long is lost; 0: the system's default
  int backlog = 4096;            // connections that the system keeps until they are accepted
};

// The counters of an acceptor, which they may outlive. Thread-safe.
struct ConnectionCounters {
  std::atomic<uint64_t> accepted{0};
  std::atomic<uint64_t> refused{0};  // attempts for want of a descriptor; one that waits for it counts at each
};

// The lowest descriptor number that is refused: of `soft_limit` descriptors an eighth (32 to 1024) is kept for files,
// outgoing connections and the like, and never more than `max_connections` are used beside those.
int DescriptorCeiling(uint64_t soft_limit, uint32_t max_connections);

class TcpAcceptor {
 public:
  // Takes the connected socket `fd`, which is the callee's from then on. On the acceptor's thread.
  using OnConnection = std::function<void(int listener_fd, int fd)>;

  // Listens on all addresses of "host:port"; port 0 takes a free one. INVALID_ARGUMENT: not of that form; UNAVAILABLE:
  // the port is taken or the host is not this machine's; FAILED_PRECONDITION: against options.loopback_only.
  static absl::StatusOr<std::unique_ptr<TcpAcceptor>> Listen(std::string_view listen,
                                                             const TcpAcceptorOptions& options);
  ~TcpAcceptor();  // stops
  TcpAcceptor(const TcpAcceptor&) = delete;
  TcpAcceptor& operator=(const TcpAcceptor&) = delete;

  // "host:port" with the port that was taken.
  const std::string& address() const { return address_; }

  // Until Start(), connections wait in the backlog.
  void Start(OnConnection on_connection);
  // Closes the listening sockets; connections that were handed over go on. Waits for a running OnConnection.
  void Stop();

  // Thread-safe.
  const std::shared_ptr<const ConnectionCounters>& counters() const { return shown_counters_; }

 private:
  TcpAcceptor(const TcpAcceptorOptions& options, std::vector<int> listen_fds, int stop_fd, std::string address);
  void Serve();
  // Takes one connection.
  void Accept(int listen_fd);
  void ReportRefusals();

  const TcpAcceptorOptions options_;
  const int ceiling_;
  const std::string address_;
  const int stop_fd_;  // an eventfd
  std::vector<int> listen_fds_;
  OnConnection on_connection_;
  const std::shared_ptr<ConnectionCounters> counters_ = std::make_shared<ConnectionCounters>();
  const std::shared_ptr<const ConnectionCounters> shown_counters_ = counters_;
  uint64_t num_reported_ = 0;  // of the thread, as below
  int64_t last_report_ns_ = 0;
  std::thread thread_;
};

}  // namespace tributary

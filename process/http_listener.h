// An HTTP server for one page, /metrics: what a scraper needs and no more, on one thread and libmicrohttpd's parser.
//
// One thread waits for all connections at once, so that those which send nothing, drip bytes or do not read delay
// nobody. There is a ceiling for them: a newcomer beyond it takes the place of the oldest, and so does one for which
// there is no file descriptor. One that neither sends nor reads for some seconds is closed.
//
// Why not prometheus-cpp's Exposer: its civetweb threads have 100 KB of stack, from which glibc takes the static TLS of
// every loaded library, and with UCX and OpenBLAS in the process a scrape overflowed it (a crash in vsnprintf). This
// thread has a stack of ordinary size.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"

namespace tributary {

class HttpListener {
 public:
  using PageMaker = std::function<std::string()>;  // called on the listener's thread

  // Serves `make_page` as text/plain at GET `path`; anything else is answered with 400 and up. `listen`: "host:port",
  // port 0 takes a free one. INVALID_ARGUMENT: not of that form; UNAVAILABLE: the port is taken, the host is not this
  // machine's, or there are too few file descriptors.
  static absl::StatusOr<std::unique_ptr<HttpListener>> Start(std::string_view listen, std::string path,
                                                             PageMaker make_page);
  ~HttpListener();  // closes all connections
  HttpListener(const HttpListener&) = delete;
  HttpListener& operator=(const HttpListener&) = delete;

  // "host:port" with the port that was taken.
  const std::string& address() const;

  // Connections at a time, of a process that may have `max_fds` files open.
  static size_t MaxConnections(uint64_t max_fds);

 private:
  class Impl;
  explicit HttpListener(std::unique_ptr<Impl> impl);

  std::unique_ptr<Impl> impl_;
};

}  // namespace tributary

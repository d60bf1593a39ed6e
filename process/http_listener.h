// A tiny HTTP/1.0 server for one page: what a metrics scraper needs and no more.
//
// Why not prometheus-cpp's Exposer: its civetweb threads have 100 KB of stack, from which glibc takes the static TLS of
// every loaded library, and with UCX and OpenBLAS in the process a scrape overflowed it (a crash in vsnprintf). This
// one answers on a thread with a stack of ordinary size, one connection after the other, with a time limit on each.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "rpc/tcp_acceptor.h"

namespace tributary {

class HttpListener {
 public:
  using PageMaker = std::function<std::string()>;  // called on the listener's thread

  // Serves `make_page` as text/plain at GET `path`; anything else is 404 or 400. `listen`: "host:port", port 0 takes a
  // free one. INVALID_ARGUMENT: not of that form; UNAVAILABLE: the port is taken or the host is not this machine's.
  static absl::StatusOr<std::unique_ptr<HttpListener>> Start(std::string_view listen, std::string path,
                                                             PageMaker make_page);
  ~HttpListener();  // waits for the answer that is under way
  HttpListener(const HttpListener&) = delete;
  HttpListener& operator=(const HttpListener&) = delete;

  // "host:port" with the port that was taken.
  const std::string& address() const { return acceptor_->address(); }

 private:
  HttpListener(std::unique_ptr<TcpAcceptor> acceptor, std::string path, PageMaker make_page);
  void Answer(int fd) const;
  std::string Response(std::string_view request) const;

  const std::string path_;
  const PageMaker make_page_;
  const std::unique_ptr<TcpAcceptor> acceptor_;
};

}  // namespace tributary

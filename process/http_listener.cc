#include "process/http_listener.h"

#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <chrono>
#include <utility>

#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr int kBacklog = 16;
constexpr int kConnectionTimeoutS = 2;  // of each read and write
constexpr int kMaxReads = 8;            // so that a client that drips bytes cannot hold the thread
constexpr size_t kMaxRequestBytes = 8192;

}  // namespace

absl::StatusOr<std::unique_ptr<HttpListener>> HttpListener::Start(std::string_view listen, std::string path,
                                                                  PageMaker make_page) {
  // One connection at a time: it needs no descriptors but that one, and may take the last.
  TRIBUTARY_ASSIGN_OR_RETURN(std::unique_ptr<TcpAcceptor> acceptor,
                             TcpAcceptor::Listen(listen, {.what = "HTTP", .backlog = kBacklog}));
  return std::unique_ptr<HttpListener>(new HttpListener(std::move(acceptor), std::move(path), std::move(make_page)));
}

HttpListener::HttpListener(std::unique_ptr<TcpAcceptor> acceptor, std::string path, PageMaker make_page)
    : path_(std::move(path)), make_page_(std::move(make_page)), acceptor_(std::move(acceptor)) {
  acceptor_->Start([this](int, int fd) {
    Answer(fd);
    close(fd);
  });
}

HttpListener::~HttpListener() { acceptor_->Stop(); }

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

#include "process/metrics_endpoint.h"

#include <arpa/inet.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

int Connect(const std::string& address) {
  const int fd = socket(AF_INET, SOCK_STREAM, 0);
  sockaddr_in peer{};
  peer.sin_family = AF_INET;
  peer.sin_port = htons(static_cast<uint16_t>(std::stoi(address.substr(address.rfind(':') + 1))));
  inet_pton(AF_INET, "127.0.0.1", &peer.sin_addr);
  const timeval patience{30, 0};  // one connection after the other, for 2 s each, would take longer
  setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
  EXPECT_EQ(connect(fd, reinterpret_cast<sockaddr*>(&peer), sizeof(peer)), 0);
  return fd;
}

std::string ReadAll(int fd) {
  std::string answer;
  char buffer[4096];
  for (ssize_t n; (n = read(fd, buffer, sizeof(buffer))) > 0;) answer.append(buffer, n);
  return answer;
}

std::string HttpGet(const std::string& address, const std::string& path) {
  const int fd = Connect(address);
  const std::string request = "GET " + path + " HTTP/1.0\r\nHost: localhost\r\n\r\n";
  EXPECT_EQ(write(fd, request.data(), request.size()), static_cast<ssize_t>(request.size()));
  const std::string answer = ReadAll(fd);
  close(fd);
  return answer;
}

TEST(MetricsEndpointTest, ServesCountersGaugesAndHistograms) {
  MetricRegistry registry;
  auto endpoint = MetricsEndpoint::Start("127.0.0.1:0", registry);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  registry.counter(metrics::kRequests, {"ok"}).Increment(3);
  registry.gauge(metrics::kRequestsRunning).Set(2);
  registry.histogram(metrics::kBatchSize).Observe(3);

  const std::string text = HttpGet((*endpoint)->address(), "/metrics");
  EXPECT_THAT(text, HasSubstr("# TYPE tributary_requests_total counter"));
  EXPECT_THAT(text, HasSubstr("tributary_requests_total{outcome=\"ok\"} 3"));
  EXPECT_THAT(text, HasSubstr("tributary_requests_running 2"));
  EXPECT_THAT(text, HasSubstr("tributary_batch_size_bucket{le=\"2\"} 0"));
  EXPECT_THAT(text, HasSubstr("tributary_batch_size_bucket{le=\"4\"} 1"));
  EXPECT_THAT(text, HasSubstr("tributary_batch_size_bucket{le=\"+Inf\"} 1"));
  EXPECT_THAT(text, HasSubstr("tributary_batch_size_sum 3"));
}

TEST(MetricsEndpointTest, OtherPathsAndMethodsAreRefused) {
  MetricRegistry registry;
  auto endpoint = MetricsEndpoint::Start("127.0.0.1:0", registry);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  EXPECT_THAT(HttpGet((*endpoint)->address(), "/"), HasSubstr("404"));
  EXPECT_THAT(HttpGet((*endpoint)->address(), "/metricsx"), HasSubstr("404"));
  EXPECT_THAT(HttpGet((*endpoint)->address(), "/metrics?x=1"), HasSubstr("200 OK"));
  EXPECT_THAT(HttpGet((*endpoint)->address(), ""), Not(HasSubstr("200 OK")));
}

TEST(MetricsEndpointTest, GarbageAndEarlyGoodbyesHarmNothing) {
  MetricRegistry registry;
  auto endpoint = MetricsEndpoint::Start("127.0.0.1:0", registry);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  for (const std::string& garbage :
       {std::string("POST /metrics HTTP/1.0\r\n\r\n"), std::string(100'000, 'x'), std::string()}) {
    const int fd = Connect((*endpoint)->address());
    (void)send(fd, garbage.data(), garbage.size(), MSG_NOSIGNAL);
    shutdown(fd, SHUT_WR);
    const std::string answer = ReadAll(fd);
    EXPECT_EQ(answer.find("200 OK"), std::string::npos) << garbage.substr(0, 20);
    close(fd);
  }
  for (const std::string& begin : {std::string("\r\n\r\n"), std::string("GET /metrics")}) {
    const int fd = Connect((*endpoint)->address());
    EXPECT_EQ(send(fd, begin.data(), begin.size(), MSG_NOSIGNAL), static_cast<ssize_t>(begin.size()));
    close(fd);
  }
  EXPECT_THAT(HttpGet((*endpoint)->address(), "/metrics"), HasSubstr("200 OK"));
}

// Connections that are closed at the end of a test.
class Connections {
 public:
  ~Connections() {
    for (const int fd : fds_) close(fd);
  }
  int Add(const std::string& address, const std::string& begin) {
    fds_.push_back(Connect(address));
    EXPECT_EQ(send(fds_.back(), begin.data(), begin.size(), MSG_NOSIGNAL), static_cast<ssize_t>(begin.size()));
    return fds_.back();
  }
  void DripIntoAll() const {
    for (const int fd : fds_) (void)send(fd, "x", 1, MSG_NOSIGNAL);
  }

 private:
  std::vector<int> fds_;
};

TEST(MetricsEndpointTest, IdleAndSlowConnectionsDelayNobody) {
  MetricRegistry registry;
  auto endpoint = MetricsEndpoint::Start("127.0.0.1:0", registry);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  Connections connections;
  for (int i = 0; i < 30; ++i) connections.Add((*endpoint)->address(), "");
  EXPECT_THAT(HttpGet((*endpoint)->address(), "/metrics"), HasSubstr("200 OK"));
  // Half a request, and one whose answer nobody reads.
  for (int i = 0; i < 15; ++i) connections.Add((*endpoint)->address(), "GET /metrics HTTP/1.1\r\nHost: ");
  for (int i = 0; i < 5; ++i) connections.Add((*endpoint)->address(), "GET /metrics HTTP/1.1\r\nHost: x\r\n\r\n");
  for (int i = 0; i < 3; ++i) {
    connections.DripIntoAll();
    EXPECT_THAT(HttpGet((*endpoint)->address(), "/metrics"), HasSubstr("200 OK"));
  }
}

TEST(MetricsEndpointTest, BeyondTheCeilingTheOldestConnectionMakesRoom) {
  MetricRegistry registry;
  auto endpoint = MetricsEndpoint::Start("127.0.0.1:0", registry);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  Connections connections;
  const int oldest = connections.Add((*endpoint)->address(), "");
  for (int i = 0; i < 300; ++i) connections.Add((*endpoint)->address(), "");
  EXPECT_THAT(HttpGet((*endpoint)->address(), "/metrics"), HasSubstr("200 OK"));
  char byte = 0;
  EXPECT_EQ(recv(oldest, &byte, 1, 0), 0);
  EXPECT_EQ(HttpListener::MaxConnections(256), 16u);
  EXPECT_EQ(HttpListener::MaxConnections(1 << 20), 64u);
  EXPECT_EQ(HttpListener::MaxConnections(32), 8u);
}

TEST(MetricsEndpointTest, HugeHeadersAreRefused) {
  MetricRegistry registry;
  auto endpoint = MetricsEndpoint::Start("127.0.0.1:0", registry);
  ASSERT_TRUE(endpoint.ok()) << endpoint.status();
  Connections connections;
  const int fd = connections.Add((*endpoint)->address(), "GET /metrics HTTP/1.1\r\nHost: x\r\nX: ");
  const std::string more(4096, 'x');
  for (int i = 0; i < 256 && send(fd, more.data(), more.size(), MSG_NOSIGNAL) > 0; ++i) {
  }
  EXPECT_THAT(ReadAll(fd), Not(HasSubstr("200 OK")));
  EXPECT_THAT(HttpGet((*endpoint)->address(), "/metrics"), HasSubstr("200 OK"));
}

TEST(MetricsEndpointTest, BusyPortIsUnavailableAndNamesTheAddress) {
  MetricRegistry registry;
  auto first = MetricsEndpoint::Start("127.0.0.1:0", registry);
  ASSERT_TRUE(first.ok()) << first.status();
  auto second = MetricsEndpoint::Start((*first)->address(), registry);
  ASSERT_EQ(second.status().code(), absl::StatusCode::kUnavailable);
  EXPECT_THAT(std::string(second.status().message()), HasSubstr((*first)->address()));
}

TEST(MetricsEndpointTest, MalformedAddressIsInvalid) {
  MetricRegistry registry;
  for (const char* listen : {"", "9100", ":9100", "127.0.0.1:", "127.0.0.1:99999", "127.0.0.1:9x"}) {
    SCOPED_TRACE(listen);
    EXPECT_EQ(MetricsEndpoint::Start(listen, registry).status().code(), absl::StatusCode::kInvalidArgument);
  }
}

}  // namespace
}  // namespace tributary

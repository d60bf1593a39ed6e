#include "rpc/security/connection_probe.h"

#include <netdb.h>
#include <openssl/err.h>
#include <openssl/ssl.h>
#include <openssl/x509v3.h>
#include <pthread.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <ctime>
#include <memory>

#include "base/outside_text.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr int kTimeoutS = 2;  // of connecting, and of each wait for the server's words
constexpr std::array<unsigned char, 3> kHttp2 = {2, 'h', '2'};

// OpenSSL writes to sockets whose other end may be closed: SIGPIPE, which would end the process, is held back.
class PipeSignalHeld {
 public:
  PipeSignalHeld() {
    sigemptyset(&pipe_);
    sigaddset(&pipe_, SIGPIPE);
    pthread_sigmask(SIG_BLOCK, &pipe_, &before_);
  }
  ~PipeSignalHeld() {
    const timespec at_once{};
    if (sigismember(&before_, SIGPIPE) == 0) sigtimedwait(&pipe_, nullptr, &at_once);
    pthread_sigmask(SIG_SETMASK, &before_, nullptr);
  }
  PipeSignalHeld(const PipeSignalHeld&) = delete;
  PipeSignalHeld& operator=(const PipeSignalHeld&) = delete;

 private:
  sigset_t pipe_{};
  sigset_t before_{};
};

// A connected socket whose calls wait kTimeoutS at most, or -1.
int Connect(const std::string& address) {
  const size_t colon = address.rfind(':');
  if (colon == std::string::npos) return -1;
  std::string host = address.substr(0, colon);
  if (host.size() > 2 && host.front() == '[' && host.back() == ']') host = host.substr(1, host.size() - 2);
  addrinfo hints{};
  hints.ai_socktype = SOCK_STREAM;
  addrinfo* found = nullptr;
  if (getaddrinfo(host.c_str(), address.c_str() + colon + 1, &hints, &found) != 0) return -1;
  const std::unique_ptr<addrinfo, void (*)(addrinfo*)> addresses(found, &freeaddrinfo);
  for (const addrinfo* it = found; it != nullptr; it = it->ai_next) {
    const int fd = socket(it->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0) continue;
    const timeval timeout{kTimeoutS, 0};
    setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &timeout, sizeof(timeout));
    setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &timeout, sizeof(timeout));
    if (connect(fd, it->ai_addr, it->ai_addrlen) == 0) return fd;
    close(fd);
  }
  return -1;
}

struct Handshake {
  bool is_done = false;          // from this end; a server may refuse this end's certificate only later
  bool saw_certificate = false;  // of the server
  bool hung_up = false;          // the server closed the connection before it said anything
  int error_reason = 0;          // of OpenSSL, 0 for none
  std::string error;             // the same in words
  long certificate = X509_V_OK;  // what is wrong with the server's
};

void NoteError(Handshake* handshake) {
  const unsigned long error = ERR_get_error();
  ERR_clear_error();
  if (error == 0) return;
  handshake->error_reason = ERR_GET_REASON(error);
  const char* const words = ERR_reason_error_string(error);
  handshake->error = words == nullptr ? fmt::format("error {}", error) : words;
}

Handshake ShakeHands(int fd, const RpcCredentials& credentials) {
  Handshake handshake;
  const std::unique_ptr<SSL_CTX, void (*)(SSL_CTX*)> context(SSL_CTX_new(TLS_client_method()), &SSL_CTX_free);
  const TlsFiles& files = credentials.tls;
  if (!files.empty()) {
    SSL_CTX_use_certificate_chain_file(context.get(), files.cert.c_str());
    SSL_CTX_use_PrivateKey_file(context.get(), files.key.c_str(), SSL_FILETYPE_PEM);
    SSL_CTX_load_verify_locations(context.get(), files.ca.c_str(), nullptr);
    SSL_CTX_set_verify(context.get(), SSL_VERIFY_PEER, nullptr);
  }
  SSL_CTX_set_alpn_protos(context.get(), kHttp2.data(), kHttp2.size());
  ERR_clear_error();
  const std::unique_ptr<SSL, void (*)(SSL*)> ssl(SSL_new(context.get()), &SSL_free);
  if (!files.empty() && !credentials.server_name.empty()) SSL_set1_host(ssl.get(), credentials.server_name.c_str());
  SSL_set_fd(ssl.get(), fd);
  int result = SSL_connect(ssl.get());
  handshake.is_done = result == 1;
  handshake.certificate = SSL_get_verify_result(ssl.get());
  handshake.saw_certificate = SSL_get0_peer_certificate(ssl.get()) != nullptr;
  char byte = 0;
  if (handshake.is_done) result = SSL_read(ssl.get(), &byte, 1);  // HTTP/2 begins with the server's settings
  // A wait that was too long for us is no hanging up: the socket then says EAGAIN, and OpenSSL that it wants more.
  handshake.hung_up = result <= 0 && SSL_get_error(ssl.get(), result) != SSL_ERROR_WANT_READ;
  NoteError(&handshake);
  return handshake;
}

// What the server's alert says of this end's certificate.
bool IsRefusal(int reason) {
  return reason >= SSL_AD_REASON_OFFSET && reason != SSL_AD_REASON_OFFSET + SSL_AD_PROTOCOL_VERSION;
}

std::string Explain(const Handshake& handshake, const RpcCredentials& credentials) {
  const TlsFiles& files = credentials.tls;
  if (files.empty()) {
    const bool speaks_tls = handshake.is_done || IsRefusal(handshake.error_reason);
    return speaks_tls ? "the server there speaks TLS: give --tls-cert, --tls-key and --tls-ca" : "";
  }
  if (!handshake.is_done && handshake.certificate == X509_V_ERR_HOSTNAME_MISMATCH) {
    return fmt::format("the server there is not what it should be: its certificate does not have the name {}",
                       credentials.server_name);
  }
  if (!handshake.is_done && handshake.certificate != X509_V_OK) {
    return fmt::format("--tls-ca '{}' does not vouch for the server's certificate: {}", Printable(files.ca),
                       X509_verify_cert_error_string(handshake.certificate));
  }
  if (handshake.error_reason == SSL_R_WRONG_VERSION_NUMBER || handshake.error_reason == SSL_R_PACKET_LENGTH_TOO_LONG) {
    return "the server there does not speak TLS: leave out --tls-cert, --tls-key and --tls-ca, or start it with them";
  }
  // Not every server's alert arrives, gRPC 1.51's never does.
  if (handshake.saw_certificate && handshake.hung_up) {
    return fmt::format("the server refuses --tls-cert '{}': {}", Printable(files.cert),
                       IsRefusal(handshake.error_reason) ? handshake.error
                                                         : "its --tls-ca may not vouch for it, or it may have expired");
  }
  return "";
}

}  // namespace

std::string WhyNoTlsConnection(const std::string& address, const RpcCredentials& credentials) {
  const PipeSignalHeld held;
  const int fd = Connect(address);
  if (fd < 0) return "";
  const Handshake handshake = ShakeHands(fd, credentials);
  close(fd);
  return Explain(handshake, credentials);
}

}  // namespace tributary

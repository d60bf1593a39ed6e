#include "rpc/security/rpc_security.h"

#include <chrono>
#include <functional>
#include <utility>

#include "base/status.h"
#include "grpcpp/security/credentials.h"
#include "grpcpp/security/server_credentials.h"
#include "grpcpp/security/tls_certificate_provider.h"
#include "grpcpp/security/tls_certificate_verifier.h"
#include "grpcpp/security/tls_credentials_options.h"
#include "rpc/security/tls_identity.h"

namespace tributary {
namespace {

constexpr unsigned kReloadIntervalS = 5;

int64_t UnixSeconds() {
  return std::chrono::duration_cast<std::chrono::seconds>(std::chrono::system_clock::now().time_since_epoch()).count();
}

// Sees each client whose certificate OpenSSL has found good.
class HandshakeCounter final : public grpc::experimental::ExternalCertificateVerifier {
 public:
  explicit HandshakeCounter(std::shared_ptr<std::atomic<uint64_t>> count) : count_(std::move(count)) {}
  bool Verify(grpc::experimental::TlsCustomVerificationCheckRequest*, std::function<void(grpc::Status)>,
              grpc::Status* sync_status) override {
    count_->fetch_add(1, std::memory_order_relaxed);
    *sync_status = grpc::Status::OK;
    return true;
  }
  void Cancel(grpc::experimental::TlsCustomVerificationCheckRequest*) override {}

 private:
  const std::shared_ptr<std::atomic<uint64_t>> count_;
};

}  // namespace

absl::StatusOr<std::shared_ptr<RpcSecurity>> RpcSecurity::Make(const SecurityOptions& options, PeerRole self) {
  PeerProof proof = PeerProof::kNothing;
  std::shared_ptr<const ClusterSecret> secret;
  if (!options.cluster_secret_file.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(secret, ClusterSecret::Load(options.cluster_secret_file));
    proof = PeerProof::kSecret;
  }
  if (!options.tls.empty()) {
    TRIBUTARY_RETURN_IF_ERROR(CheckTlsFiles(options.tls, self, UnixSeconds()).status());
    proof = PeerProof::kTls;
  }
  return std::shared_ptr<RpcSecurity>(new RpcSecurity(options, self, proof, secret));
}

std::shared_ptr<RpcSecurity> RpcSecurity::Open() {
  SecurityOptions options;
  options.insecure = true;
  return std::shared_ptr<RpcSecurity>(new RpcSecurity(options, PeerRole::kClient, PeerProof::kNothing, nullptr));
}

RpcSecurity::RpcSecurity(const SecurityOptions& options, PeerRole self, PeerProof proof,
                         const std::shared_ptr<const ClusterSecret>& secret)
    : options_(options), self_(self), proof_(proof), secret_(secret), access_(proof, secret) {
  if (proof_ == PeerProof::kTls) MakeTlsCredentials();
  credentials_.secret = secret_;
  credentials_.self = self_;
  credentials_.tls = options_.tls;
}

void RpcSecurity::MakeTlsCredentials() {
  const TlsFiles& files = options_.tls;
  const auto provider = std::make_shared<grpc::experimental::FileWatcherCertificateProvider>(
      files.key, files.cert, files.ca, kReloadIntervalS);
  grpc::experimental::TlsChannelCredentialsOptions channel;
  channel.set_certificate_provider(provider);
  channel.watch_root_certs();
  channel.watch_identity_key_cert_pairs();
  credentials_.channel = grpc::experimental::TlsCredentials(channel);
  if (self_ == PeerRole::kClient) return;
  grpc::experimental::TlsServerCredentialsOptions server(provider);
  server.watch_root_certs();
  server.watch_identity_key_cert_pairs();
  server.set_cert_request_type(GRPC_SSL_REQUEST_AND_REQUIRE_CLIENT_CERTIFICATE_AND_VERIFY);
  server.set_certificate_verifier(
      grpc::experimental::ExternalCertificateVerifier::Create<HandshakeCounter>(access_.num_handshakes()));
  credentials_.server = grpc::experimental::TlsServerCredentials(server);
}

RpcOptions RpcSecurity::ServerOptions() const {
  RpcOptions options;
  options.credentials = credentials_;
  options.loopback_only = proof_ == PeerProof::kNothing && !options_.insecure;
  return options;
}

RpcOptions RpcSecurity::ChannelOptions(PeerRole server) const {
  RpcOptions options;
  options.credentials = credentials_;
  if (proof_ == PeerProof::kTls) options.credentials.server_name = CertificateName(server);
  return options;
}

std::optional<int64_t> RpcSecurity::NotAfterUnixS() const {
  if (proof_ != PeerProof::kTls) return std::nullopt;
  return ExpiryOf(options_.tls.cert);
}

}  // namespace tributary

// Adds a member's token (cluster_secret.h) to each call of a channel.
#pragma once

#include <memory>

#include "grpcpp/support/client_interceptor.h"
#include "rpc/security/cluster_secret.h"

namespace tributary {

class CallSigner final : public grpc::experimental::ClientInterceptorFactoryInterface {
 public:
  CallSigner(std::shared_ptr<const ClusterSecret> secret, PeerRole self) : secret_(std::move(secret)), self_(self) {}
  grpc::experimental::Interceptor* CreateClientInterceptor(grpc::experimental::ClientRpcInfo* info) override;

 private:
  const std::shared_ptr<const ClusterSecret> secret_;
  const PeerRole self_;
};

}  // namespace tributary

#include "rpc/security/call_signer.h"

#include <string>
#include <utility>

namespace tributary {
namespace {

using grpc::experimental::InterceptionHookPoints;

class SignedCall final : public grpc::experimental::Interceptor {
 public:
  explicit SignedCall(std::string token) : token_(std::move(token)) {}

  void Intercept(grpc::experimental::InterceptorBatchMethods* methods) override {
    if (methods->QueryInterceptionHookPoint(InterceptionHookPoints::PRE_SEND_INITIAL_METADATA)) {
      methods->GetSendInitialMetadata()->insert({kMemberTokenKey, token_});
    }
    methods->Proceed();
  }

 private:
  const std::string token_;
};

}  // namespace

grpc::experimental::Interceptor* CallSigner::CreateClientInterceptor(grpc::experimental::ClientRpcInfo* info) {
  return new SignedCall(secret_->Sign(self_, info->method()));
}

}  // namespace tributary

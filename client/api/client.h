// The C++ client of a coordinator: generate with streaming, cancel, status.
//
// Errors carry what to do: a coordinator that cannot be reached is UNAVAILABLE with its address,
// RESOURCE_EXHAUSTED says after how long to retry. One that stops answering without closing the connection is
// UNAVAILABLE, too, after the keepalive's interval and timeout (30 s); one that stands still for less is waited for.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "base/mutex.h"
#include "rpc/rpc_options.h"
#include "tributary/v1/coordinator.grpc.pb.h"

namespace tributary {

// Called on the thread that called Client::Generate, in the order of arrival. Empty ones are
// skipped.
struct GenerateHandlers {
  std::function<void(const v1::GenerateEvent::Accepted&)> on_accepted;
  std::function<void(const v1::GenerateEvent::PrefillProgress&)> on_prefill;
  std::function<void(const v1::GenerateEvent::TokenChunk&)> on_tokens;
  // The request stands still, and goes on: nothing is lost.
  std::function<void(const v1::GenerateEvent::Stalled&)> on_stalled;
  std::function<void()> on_resumed;
};

// By what a client proves who it is to a coordinator that speaks TLS; plaintext if `tls` is empty. INVALID_ARGUMENT:
// what is wrong with the files.
absl::StatusOr<RpcCredentials> ClientCredentials(const TlsFiles& tls);

// Thread-safe; one connection.
class Client {
 public:
  // `address`: host:port of a coordinator. Connects on first use. `options.credentials`: of TLS (ClientCredentials()),
  // else plaintext.
  explicit Client(std::string address, RpcOptions options = {});

  // Waits until the coordinator can be reached; UNAVAILABLE with advice after `timeout_s`.
  absl::Status WaitForConnection(double timeout_s);

  // Returns after the final summary or with the error. CANCELLED after CancelAll() or CancelRunning(). A request with
  // text that no message can carry (no UTF-8, control characters) is INVALID_ARGUMENT and is not sent.
  absl::StatusOr<v1::GenerateEvent::Summary> Generate(const v1::GenerateRequest& request,
                                                      const GenerateHandlers& handlers);
  // Ends a request of any client.
  absl::Status Cancel(const std::string& request_id);
  absl::StatusOr<v1::StatusResponse> Status(double timeout_s = 5);

  // Ends the Generate() calls that run now, with CANCELLED. Any thread, handlers' included.
  void CancelRunning();
  // Ends every Generate() of this client; later ones fail at once. Any thread.
  void CancelAll();

  const std::string& address() const { return address_; }

 private:
  // `silent_ns`: since something came of this call.
  absl::Status Explain(const grpc::Status& status, int64_t silent_ns = 0) const;
  absl::Status ExplainSilence(const std::string& message, int64_t silent_ns) const;

  const std::string address_;
  const int64_t keepalive_timeout_ns_;
  const RpcCredentials credentials_;
  std::shared_ptr<grpc::Channel> channel_;
  std::unique_ptr<v1::Coordinator::Stub> stub_;
  Mutex mutex_;
  bool cancelled_ ABSL_GUARDED_BY(mutex_) = false;
  std::vector<grpc::ClientContext*> running_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tributary

// The yardstick of exchange_bench: UCX active messages sent to and fro with nothing of ours around
// them. Same sizes, same header length, static buffers, no look at the bytes.
#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "transport/ucx/ucx_context.h"
#include "transport/ucx/ucx_worker.h"

namespace tributary {

enum class RawSettings {
  kUcxDefaults,  // but for transports, and error handling of shared memory (PEER mode needs it)
  kOurs,         // as UcxContext sets them
};

// One end. Belongs to one thread.
class RawPingPong {
 public:
  static absl::StatusOr<std::unique_ptr<RawPingPong>> Create(const UcxOptions& options, RawSettings settings,
                                                             size_t max_bytes);
  ~RawPingPong();

  const std::string& address() const { return worker_->address(); }
  absl::Status Connect(const std::string& worker_address);

  // Sends `bytes` (header apart) and returns when the message is on its way and the buffer is free.
  void Send(size_t bytes, bool eager);
  // True once per message received.
  bool Poll();

 private:
  explicit RawPingPong(size_t max_bytes);
  absl::Status Start(const UcxOptions& options, RawSettings settings);
  static ucs_status_t OnMessage(void* argument, const void* header, size_t header_bytes, void* data, size_t bytes,
                                const ucp_am_recv_param_t* param);

  std::optional<UcxContext> our_context_;
  ucp_context_h default_context_ = nullptr;
  std::optional<UcxWorker> worker_;
  ucp_ep_h endpoint_ = nullptr;
  std::vector<std::byte> send_buffer_;
  std::vector<std::byte> recv_buffer_;
  int num_received_ = 0;
  void* receiving_ = nullptr;
};

}  // namespace tributary

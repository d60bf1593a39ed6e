// DataPlane over UCX active messages: shared memory, TCP and RDMA by the same code.
//
// A frame is one active message: its header is the message's header, its payload the message's
// data. kEager frames are copied by the transport, or read in place by it, whatever their size;
// kBulk frames go by UCX's own choice, which is rendezvous beyond some KiB: the receiver fetches
// them into its receive arena, and while that is full, they wait at the sender.
//
// Peers connect by worker address (info().address), exchanged over the control plane; there are no
// listeners of ours. A peer that connects to us is not known here until Connect() is called with
// its address.
//
// After Disconnect() of a live peer, a bulk frame that it had begun to fetch may reach it damaged:
// it must know by the frame's session that the frame is stale.
#pragma once

#include <memory>

#include "absl/status/statusor.h"
#include "transport/data_plane.h"
#include "transport/ucx/ucx_options.h"

namespace tributary {

// Use of memory, for metrics and tests. Call on the data plane's thread.
struct UcxPoolUsage {
  size_t send_used_bytes = 0;
  size_t send_capacity_bytes = 0;
  size_t recv_used_bytes = 0;
  size_t recv_capacity_bytes = 0;
  size_t num_deferred_receives = 0;  // bulk frames waiting for room in the receive arena
  size_t num_closing_peers = 0;
};

class UcxDataPlane : public DataPlane {
 public:
  virtual UcxPoolUsage pool_usage() const = 0;
};

// Errors name the setting that UCX refused, or the memory that it could not register.
absl::StatusOr<std::unique_ptr<UcxDataPlane>> MakeUcxDataPlane(const UcxOptions& options);

}  // namespace tributary

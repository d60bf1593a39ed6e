// The core of a CPU attention node: sessions, shards, and the answer to each frame. No gRPC; a DataPlane carries frames.
//
// Thread-compatible: one I/O thread owns the server and its data plane; gRPC adapters post closures to that thread.
// Compute threads exist only inside an attention step (shard_executor.h).
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/statusor.h"
#include "attention/shard_spec.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/siphash.h"
#include "transport/data_plane.h"

namespace tributary {

class AttentionMetrics;  // cpu_attention_service/attention_metrics.h; may be null

struct AttentionServerOptions {
  std::string node_id;
  uint64_t incarnation = 0;       // also the epoch of its sessions
  uint64_t kv_pool_bytes = 0;
  size_t extent_bytes = 256 << 10;
  int num_threads = 1;
  std::string kernel;             // "" = the best that the machine has (cpu_attention_service/kernels)
  int64_t session_idle_ns = 0;    // sessions without a frame for this long are dropped; 0 = never
};

struct SessionGrant {
  SessionId session_id;
  SipKey key;
  Epoch epoch;
};

struct ShardUsageInfo {
  ShardId shard_id;
  SequenceId sequence_id;
  uint64_t stored_tokens = 0;
  uint64_t reserved_bytes = 0;
};

class AttentionServer final : public FrameHandler {
 public:
  // The data plane outlives the server. Errors: pool memory, unknown kernel.
  static absl::StatusOr<std::unique_ptr<AttentionServer>> Create(const AttentionServerOptions& options,
                                                                 DataPlane* data_plane, const Clock* clock,
                                                                 AttentionMetrics* metrics);
  ~AttentionServer() override;

  // Pairs with a worker whose data plane has this address.
  absl::StatusOr<SessionGrant> OpenSession(const std::string& worker_id, const std::string& worker_address);
  void CloseSession(SessionId session);

  // Returns the reserved bytes. Codes as in proto/tributary/v1/cpu_attention.proto.
  absl::StatusOr<uint64_t> OpenShard(const ShardSpec& spec);
  // Idempotent; refuses an older epoch than the shard's with FAILED_PRECONDITION.
  absl::Status CloseShard(ShardId shard, Epoch epoch);

  uint64_t free_bytes() const;
  uint64_t capacity_bytes() const;
  std::vector<ShardUsageInfo> shards() const;

  // Polls the data plane once and answers what came. Returns the number of events.
  int Poll();

  void OnFrame(std::span<const std::byte> header, std::span<const std::byte> payload) override;
  void OnPeerError(PeerId peer, const absl::Status& status) override;

 private:
  AttentionServer();
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace tributary

// The core of a CPU attention node: sessions, shards, and the answer to each frame. No gRPC; a
// DataPlane carries frames.
//
//   query      -> one partial frame, with a status per entry; a bad entry harms no other. Queries are
//                 attended to one by one, outside the data plane's handlers; what comes meanwhile
//                 is taken between two items of work: heartbeats are answered at once, queries and
//                 spills wait in order.
//   spill      -> stored in its shard -> ack, with a status
//   heartbeat  -> heartbeat, is_reply = 1
//   query or spill of a shard that is granted to another worker
//              -> an error frame that names shard and worker; nothing of the frame is done
//   others     -> counted by reason; if they come from a session (tag checked) also an error frame, so that a sender
//                 knows at once what was damaged on the way.
//                 Replays and error frames, whole or damaged, are never answered, so that no two sides echo.
//
// Thread-compatible: one I/O thread owns the server and its data plane; gRPC adapters post closures
// to that thread (io_loop.h). Compute threads exist only inside an attention step
// (shard_executor.h).
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/clock.h"
#include "base/ids.h"
#include "base/random_id.h"
#include "cluster/shard_spec.h"
#include "cluster/worker_identity.h"
#include "kv_store/arena.h"
#include "kv_store/shard_scrub.h"
#include "transport/data_plane.h"
#include "wire/frame_seal.h"

namespace tributary {

struct AttentionMetrics;  // cpu_attention_service/node/attention_metrics.h

struct AttentionServerOptions {
  std::string node_id;
  uint64_t incarnation = 0;
  ArenaOptions arena;  // of the KV pool
  size_t extent_bytes = 512 << 10;
  ShardScrubOptions scrub;  // runs when nothing else is to do
  int num_threads = 1;
  std::vector<int> cpus;  // thread i is pinned to cpus[i % size], but thread 0 is the caller's; as of ThreadPool
  int64_t helper_spin_ns = 20'000;  // how long the others spin between steps before they sleep
  std::string kernel;               // "" = the best that the machine has (cpu_attention_service/kernels)
  int64_t session_idle_ns = 0;      // sessions without a frame for this long are dropped; 0 = never
  bool data_plane_mac = false;      // payloads have a MAC instead of a CRC (wire/frame_seal.h)
  IdSource ids = RandomId;          // of sessions
};

struct SessionGrant {
  SessionId session_id;
  SessionKeys keys;
  Epoch epoch;  // the node's incarnation
};

struct ShardUsageInfo {
  ShardId shard_id;
  SequenceId sequence_id;
  uint64_t stored_tokens = 0;  // mean over the layers held
  uint64_t reserved_bytes = 0;
};

class AttentionServer final : public FrameHandler {
 public:
  // The data plane, the clock and the metrics (may be null) outlive the server. Errors:
  // INVALID_ARGUMENT (options), those of Arena::Create and cpu_kernels::Select.
  static absl::StatusOr<std::unique_ptr<AttentionServer>> Create(const AttentionServerOptions& options,
                                                                 DataPlane* data_plane, const Clock* clock,
                                                                 AttentionMetrics* metrics);
  ~AttentionServer() override;

  // Pairs with a worker whose data plane has this address. A worker has one session: a new one ends
  // the old. RESOURCE_EXHAUSTED beyond SessionTable::kMaxSessions; errors of DataPlane::Connect.
  absl::StatusOr<SessionGrant> OpenSession(const WorkerIdentity& worker, const std::string& worker_address);
  // Unknown sessions are ignored. Shards stay: they belong to sequences.
  void CloseSession(SessionId session);

  // Returns the reserved bytes. Only sessions of this worker, in this run of it, may name the shard; the same spec
  // again moves it to the worker that is named then. Codes as in proto/tributary/v1/cpu_attention.proto.
  absl::StatusOr<uint64_t> OpenShard(const ShardSpec& spec, const WorkerIdentity& worker);
  // Idempotent; refuses an older epoch than the shard's with FAILED_PRECONDITION.
  absl::Status CloseShard(ShardId shard, Epoch epoch);
  // Closes it whatever its epoch: the coordinator says that no live sequence refers to it. False if
  // unknown.
  bool DropOrphan(ShardId shard);

  uint64_t free_bytes() const;
  uint64_t capacity_bytes() const;
  const Arena& arena() const;
  std::vector<ShardUsageInfo> shards() const;
  size_t num_sessions() const;
  size_t num_waiting_answers() const;
  std::string_view kernel_name() const;

  // Polls the data plane once and answers what came before. Returns the number of events.
  int Poll();

  void OnFrame(std::span<const std::byte> header, std::span<const std::byte> payload) override;
  void OnPeerError(PeerId peer, const absl::Status& status) override;

 private:
  struct Impl;
  explicit AttentionServer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

}  // namespace tributary

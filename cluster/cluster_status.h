// What a coordinator says about its cluster.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/ids.h"
#include "cluster/cluster_types.h"

namespace tributary {

enum class MemberState { kAlive, kSuspect, kDead, kDraining };
std::string_view MemberStateName(MemberState state);  // "alive", "suspect", "dead", "draining"

struct Member {
  NodeDescription node;
  MemberState state = MemberState::kAlive;
  bool is_gone = false;  // kDead for certain: its process has ended, or another one has its id
  int64_t last_heard_ns = 0;
  uint64_t free_bytes = 0;
  uint32_t reported_shards = 0;

  bool usable() const { return state == MemberState::kAlive; }
  // Usable, or silent for a moment only: worth waiting for.
  bool may_return() const { return usable() || state == MemberState::kSuspect; }
};

struct MemberStatus {
  Member member;
  uint32_t shards = 0;
  uint32_t sequences = 0;
  uint64_t available_bytes = 0;
};

struct KeptStatus {
  std::string request_id;
  SequenceId sequence_id;
  std::string worker_id;
  int64_t kept_until_ns = 0;
  uint64_t context_tokens = 0;
  uint64_t reserved_context_tokens = 0;
  uint64_t resident_bytes = 0;
  uint64_t shard_bytes = 0;
};

struct ClusterStatus {
  uint64_t membership_epoch = 0;
  std::vector<MemberStatus> members;
  std::optional<ModelGeometry> geometry;
  uint32_t running = 0;
  uint32_t waiting = 0;
  uint32_t shards = 0;  // on their holders: a shard with two counts twice
  uint64_t finished = 0;
  uint64_t failed = 0;
  uint32_t stalled = 0;          // of those that run: they wait for a silent node or worker
  std::vector<KeptStatus> kept;  // in none of the counts above
};

}  // namespace tributary

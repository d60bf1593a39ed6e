// Every shard that this coordinator has asked a node to open and has not seen closed, and the
// memory it counts for.
//
//   opening --ok--> open --Close--> closing --ok--> gone
//   opening --Close--> doomed --ok--> closing           (an open that is under way cannot be taken
//   back) opening, doomed --refused--> gone                   (the node states that it reserved
//   nothing) opening, doomed --no answer--> closing              (it may have reserved: close it
//   anyway) closing --no answer--> closing, asked again later
//
// A dead node's shards are dropped at once. Pure; thread-compatible.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "cluster/cluster_types.h"
#include "cluster/shard_spec.h"

namespace tributary {

struct LedgerShard {
  ShardSpec spec;
  std::string node_id;
  std::string control_address;
  uint64_t bytes = 0;
};

class ShardLedger {
 public:
  ShardLedger(int64_t orphan_grace_ns, int64_t close_retry_ns)
      : orphan_grace_ns_(orphan_grace_ns), close_retry_ns_(close_retry_ns) {}

  void Reserve(LedgerShard shard);

  // What to do next about the shard.
  enum class Next { kNothing, kSendClose };
  // `opened` is false for an unknown shard (its node died meanwhile) and for a failed or doomed
  // one.
  struct OpenResult {
    bool opened = false;
    Next next = Next::kNothing;
  };
  OpenResult OnOpened(ShardId shard, const absl::Status& status);
  Next Close(ShardId shard);
  void OnClosed(ShardId shard, const absl::Status& status, int64_t now_ns);
  // Shards whose close has to be sent again.
  std::vector<ShardId> TakeDueCloses(int64_t now_ns);
  // Forgets all shards of a node and what it reported.
  void DropNode(const std::string& node_id);

  // Takes a node's own list of shards; returns those that this ledger has not known for the grace
  // time: nobody will ever use or close them.
  std::vector<ShardId> OnReport(const std::string& node_id, const std::vector<ReportedShard>& reported, int64_t now_ns);

  const LedgerShard* Find(ShardId shard) const;
  // Memory of the node that this ledger knows to be spoken for: its own shards, and foreign ones as
  // last reported.
  uint64_t UsedBytes(const std::string& node_id) const;
  uint32_t NumShards(const std::string& node_id) const;
  size_t size() const { return shards_.size(); }

 private:
  enum class State { kOpening, kOpen, kDoomed, kClosing, kCloseLater };
  struct Entry {
    LedgerShard shard;
    State state = State::kOpening;
    int64_t retry_at_ns = 0;
  };
  struct NodeUse {
    uint64_t own_bytes = 0;
    uint32_t num_shards = 0;
    uint64_t foreign_bytes = 0;
    absl::flat_hash_map<ShardId, int64_t> foreign_since_ns;
  };
  void Erase(ShardId shard);

  int64_t orphan_grace_ns_;
  int64_t close_retry_ns_;
  absl::flat_hash_map<ShardId, Entry> shards_;
  std::map<std::string, NodeUse> nodes_;
};

}  // namespace tributary

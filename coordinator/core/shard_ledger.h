// Every shard that this coordinator has asked a node to hold and has not seen closed there, and the memory it counts
// for. An entry is one holding: a shard on one of its holders.
//
//   opening --ok--> open --Close--> closing --ok--> gone
//   opening --Close--> doomed --ok--> closing             (an open that is under way cannot be taken back)
//   opening, doomed --refused--> gone                     (the node states that it reserved nothing)
//   opening, doomed --no answer--> closing                (it may have reserved: close it anyway)
//   closing --no answer--> closing, asked again later
//
// A dead node's holdings are dropped at once. Pure; thread-compatible.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "cluster/cluster_types.h"
#include "cluster/node_endpoint.h"

namespace tributary {

struct Holding {
  ShardId shard_id;
  SequenceId sequence_id;
  Epoch epoch;
  NodeEndpoint holder;
  uint64_t bytes = 0;  // reserved there
};

class ShardLedger {
 public:
  ShardLedger(int64_t orphan_grace_ns, int64_t close_retry_ns)
      : orphan_grace_ns_(orphan_grace_ns), close_retry_ns_(close_retry_ns) {}

  // REQUIRES: the node does not hold the shard yet.
  void Reserve(Holding holding);

  // What to do next about the holding.
  enum class Next { kNothing, kSendClose };
  // `opened` is false for an unknown holding (its node died meanwhile) and for a failed or doomed one.
  struct OpenResult {
    bool opened = false;
    Next next = Next::kNothing;
  };
  OpenResult OnOpened(ShardId shard, const std::string& node_id, const absl::Status& status);
  Next Close(ShardId shard, const std::string& node_id);
  void OnClosed(ShardId shard, const std::string& node_id, const absl::Status& status, int64_t now_ns);
  // Holdings whose close has to be sent again, by shard and node.
  std::vector<Holding> TakeDueCloses(int64_t now_ns);
  // Forgets all holdings of a node and what it reported.
  void DropNode(const std::string& node_id);

  // Takes a node's own list of shards; returns those that this ledger has not known there for the grace time: nobody
  // will ever use or close them.
  std::vector<ShardId> OnReport(const std::string& node_id, const std::vector<ReportedShard>& reported, int64_t now_ns);

  // nullptr if it is not known. Valid until the next call that is not const.
  const Holding* Find(ShardId shard, const std::string& node_id) const;
  // Whether any node holds it.
  bool Knows(ShardId shard) const;
  // Memory of the node that this ledger knows to be spoken for: its own holdings, and foreign shards as last reported.
  uint64_t UsedBytes(const std::string& node_id) const;
  uint32_t NumShards(const std::string& node_id) const;
  // Holdings.
  size_t size() const { return holdings_.size(); }

 private:
  using Key = std::pair<ShardId, std::string>;
  enum class State { kOpening, kOpen, kDoomed, kClosing, kCloseLater };
  struct Entry {
    Holding holding;
    State state = State::kOpening;
    int64_t retry_at_ns = 0;
  };
  struct NodeUse {
    uint64_t own_bytes = 0;
    uint32_t num_shards = 0;
    uint64_t foreign_bytes = 0;
    absl::flat_hash_map<ShardId, int64_t> foreign_since_ns;
  };
  Entry* FindEntry(ShardId shard, const std::string& node_id);
  void Erase(ShardId shard, const std::string& node_id);

  int64_t orphan_grace_ns_;
  int64_t close_retry_ns_;
  std::map<Key, Entry> holdings_;
  std::map<std::string, NodeUse> nodes_;
};

}  // namespace tributary

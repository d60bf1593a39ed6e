// The shards of placed sequences, from the plan to the last close: names them, opens each on each of its holders,
// closes them again, and asks again where a close was not answered.
//
// Owns the ledger (coordinator/core/shard_ledger.h): the memory that counts as used on each node. Does not know what a
// sequence does otherwise; whoever places one opens its shards here, and closes them when its worker has let go.
// Pure: time and ids are arguments, calls to nodes are actions. Thread-compatible.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/random_id.h"
#include "cluster/shard_placement.h"
#include "cluster/worker_identity.h"
#include "coordinator/core/membership.h"
#include "coordinator/core/outbox.h"
#include "coordinator/core/placement.h"
#include "coordinator/core/shard_ledger.h"

namespace tributary {

class ShardKeeper {
 public:
  // `ids` names shards; an id that is in use is drawn again.
  ShardKeeper(int64_t orphan_grace_ns, int64_t close_retry_ns, IdSource ids)
      : ledger_(orphan_grace_ns, close_retry_ns), ids_(std::move(ids)) {}

  // Fills in the shards' ids and asks every holder to open them for the worker. True if there was none to ask: all are
  // open. REQUIRES: the holders are members, with the extents that the plan was made for; the sequence has no shards
  // here, and stays on the worker as long as it has them.
  bool Open(SequenceId sequence, Epoch epoch, const WorkerIdentity& worker, const Membership& membership,
            std::vector<ShardPlacement>& shards, Outbox& out);

  // A holder's answer.
  struct OpenAnswer {
    enum class Kind {
      kNothing,  // not awaited any more, or others still are
      kAllOpen,  // that was the last one of the sequence
      kFailed,   // the sequence cannot have this shard
    };
    Kind kind = Kind::kNothing;
    SequenceId sequence_id;
  };
  OpenAnswer OnOpened(const event::ShardOpened& e, Outbox& out);
  void OnClosed(const event::ShardClosed& e, int64_t now_ns);

  // Closes a sequence's shards on all their holders; those that are still being opened follow when they are.
  void Close(SequenceId sequence, const std::vector<ShardPlacement>& shards, Outbox& out);
  // Closes again what was not answered.
  void RetryCloses(int64_t now_ns, Outbox& out);

  // A node is dead: forgets what it held.
  void DropNode(const std::string& node_id) { ledger_.DropNode(node_id); }
  // Does what ShardLedger::OnReport does.
  std::vector<ShardId> OnReport(const NodeHeartbeat& heartbeat, int64_t now_ns) {
    return ledger_.OnReport(heartbeat.node_id, heartbeat.shards, now_ns);
  }

  // Returns the room of the members that could take a shard, now or after a moment of silence.
  std::vector<NodeRoom> Rooms(const Membership& membership) const;
  // Reserved on all holders of these shards.
  uint64_t BytesOf(const std::vector<ShardPlacement>& shards) const;
  const ShardLedger& ledger() const { return ledger_; }

 private:
  void SendClose(const Holding& holding, Outbox& out);
  ShardId NewId(const std::vector<ShardPlacement>& siblings);

  ShardLedger ledger_;
  IdSource ids_;
  struct Opening {
    Epoch epoch;
    uint32_t num_awaited = 0;  // holders' answers
  };
  absl::flat_hash_map<SequenceId, Opening> opening_;
};

// Strikes a dead node off the holders of a sequence's shards. True if it held one of them.
bool RemoveHolder(std::vector<ShardPlacement>& shards, const NodeDescription& node);

}  // namespace tributary

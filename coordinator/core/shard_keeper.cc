#include "coordinator/core/shard_keeper.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "kv_store/shard_needs.h"

namespace tributary {

bool ShardKeeper::Open(SequenceId sequence, Epoch epoch, const WorkerIdentity& worker, const Membership& membership,
                       std::vector<ShardPlacement>& shards, Outbox& out) {
  uint32_t num_asked = 0;
  for (ShardPlacement& shard : shards) {
    shard.spec.shard_id = NewId(shards);
    shard.spec.sequence_id = sequence;
    shard.spec.epoch = epoch;
    for (const NodeEndpoint& holder : shard.holders) {
      const Member* member = membership.Find(holder.node_id);
      TRIBUTARY_CHECK(member != nullptr);
      const absl::StatusOr<uint64_t> bytes = ShardReservedBytes(shard.spec, member->node.extent_bytes);
      TRIBUTARY_CHECK(bytes.ok());  // Place() has asked for the same
      ledger_.Reserve({shard.spec.shard_id, sequence, epoch, holder, *bytes});
      out.Push(action::OpenShard{shard.spec, holder, worker});
      ++num_asked;
    }
  }
  if (num_asked == 0) return true;
  const bool inserted = opening_.emplace(sequence, Opening{epoch, num_asked}).second;
  TRIBUTARY_CHECK(inserted);
  return false;
}

ShardKeeper::OpenAnswer ShardKeeper::OnOpened(const event::ShardOpened& e, Outbox& out) {
  const Holding* found = ledger_.Find(e.shard_id, e.node_id);
  if (found == nullptr) return {};
  const Holding holding = *found;
  const ShardLedger::OpenResult result = ledger_.OnOpened(e.shard_id, e.node_id, e.status);
  if (result.next == ShardLedger::Next::kSendClose) SendClose(holding, out);
  const auto it = opening_.find(holding.sequence_id);
  if (it == opening_.end() || it->second.epoch != holding.epoch) return {};  // of a place that it has left
  if (!result.opened) {
    if (e.status.ok()) return {};
    opening_.erase(it);
    return {OpenAnswer::Kind::kFailed, holding.sequence_id};
  }
  if (--it->second.num_awaited > 0) return {};
  opening_.erase(it);
  return {OpenAnswer::Kind::kAllOpen, holding.sequence_id};
}

void ShardKeeper::OnClosed(const event::ShardClosed& e, int64_t now_ns) {
  ledger_.OnClosed(e.shard_id, e.node_id, e.status, now_ns);
}

void ShardKeeper::Close(SequenceId sequence, const std::vector<ShardPlacement>& shards, Outbox& out) {
  opening_.erase(sequence);
  for (const ShardPlacement& shard : shards) {
    for (const NodeEndpoint& holder : shard.holders) {
      if (ledger_.Close(shard.spec.shard_id, holder.node_id) != ShardLedger::Next::kSendClose) continue;
      SendClose(*ledger_.Find(shard.spec.shard_id, holder.node_id), out);
    }
  }
}

void ShardKeeper::RetryCloses(int64_t now_ns, Outbox& out) {
  for (const Holding& holding : ledger_.TakeDueCloses(now_ns)) SendClose(holding, out);
}

std::vector<NodeRoom> ShardKeeper::Rooms(const Membership& membership) const {
  std::vector<NodeRoom> rooms;
  for (const auto& [id, member] : membership.members()) {
    if (member.node.role != NodeRole::kCpuAttention || !member.may_return()) continue;
    const uint64_t capacity = member.node.kv_capacity_bytes;
    rooms.push_back({{id, member.node.incarnation, member.node.control_address},
                     capacity,
                     capacity - std::min(capacity, ledger_.UsedBytes(id)),
                     member.node.extent_bytes,
                     member.usable()});
  }
  return rooms;
}

uint64_t ShardKeeper::BytesOf(const std::vector<ShardPlacement>& shards) const {
  uint64_t bytes = 0;
  for (const ShardPlacement& shard : shards) {
    for (const NodeEndpoint& holder : shard.holders) {
      const Holding* holding = ledger_.Find(shard.spec.shard_id, holder.node_id);
      if (holding != nullptr) bytes += holding->bytes;
    }
  }
  return bytes;
}

void ShardKeeper::SendClose(const Holding& holding, Outbox& out) {
  out.Push(action::CloseShard{holding.shard_id, holding.epoch, holding.holder});
}

ShardId ShardKeeper::NewId(const std::vector<ShardPlacement>& siblings) {
  while (true) {
    const ShardId id(ids_());
    const bool is_sibling =
        std::any_of(siblings.begin(), siblings.end(), [&](const auto& shard) { return shard.spec.shard_id == id; });
    if (!is_sibling && !ledger_.Knows(id)) return id;
  }
}

bool RemoveHolder(std::vector<ShardPlacement>& shards, const NodeDescription& node) {
  size_t num_removed = 0;
  for (ShardPlacement& shard : shards) {
    num_removed += std::erase_if(shard.holders, [&](const NodeEndpoint& holder) {
      return holder.node_id == node.node_id && holder.incarnation == node.incarnation;
    });
  }
  return num_removed > 0;
}

}  // namespace tributary

#include "coordinator/core/shard_ledger.h"

#include <utility>

#include "base/check.h"

namespace tributary {
namespace {

// Answers that say for certain that no memory is held.
bool SurelyNotOpened(const absl::Status& status) {
  switch (status.code()) {
    case absl::StatusCode::kInvalidArgument:
    case absl::StatusCode::kResourceExhausted:
    case absl::StatusCode::kFailedPrecondition:
    case absl::StatusCode::kAlreadyExists:
    case absl::StatusCode::kUnimplemented:
      return true;
    default:
      return false;
  }
}

}  // namespace

void ShardLedger::Reserve(Holding holding) {
  NodeUse& node = nodes_[holding.holder.node_id];
  node.own_bytes += holding.bytes;
  node.num_shards += 1;
  Key key{holding.shard_id, holding.holder.node_id};
  const bool inserted = holdings_.try_emplace(std::move(key), Entry{std::move(holding)}).second;
  TRIBUTARY_CHECK(inserted);
}

ShardLedger::OpenResult ShardLedger::OnOpened(ShardId shard, const std::string& node_id, const absl::Status& status) {
  Entry* entry = FindEntry(shard, node_id);
  if (entry == nullptr) return {};
  if (entry->state != State::kOpening && entry->state != State::kDoomed) return {};
  if (!status.ok() && SurelyNotOpened(status)) {
    Erase(shard, node_id);
    return {};
  }
  if (status.ok() && entry->state == State::kOpening) {
    entry->state = State::kOpen;
    return {true, Next::kNothing};
  }
  entry->state = State::kClosing;
  return {false, Next::kSendClose};
}

ShardLedger::Next ShardLedger::Close(ShardId shard, const std::string& node_id) {
  Entry* entry = FindEntry(shard, node_id);
  if (entry == nullptr) return Next::kNothing;
  if (entry->state == State::kOpening) {
    entry->state = State::kDoomed;
    return Next::kNothing;
  }
  if (entry->state != State::kOpen) return Next::kNothing;
  entry->state = State::kClosing;
  return Next::kSendClose;
}

void ShardLedger::OnClosed(ShardId shard, const std::string& node_id, const absl::Status& status, int64_t now_ns) {
  Entry* entry = FindEntry(shard, node_id);
  if (entry == nullptr || entry->state != State::kClosing) return;
  // FAILED_PRECONDITION: the node has the shard at a later epoch; NOT_FOUND: not at all. Both are final.
  if (status.ok() || absl::IsFailedPrecondition(status) || absl::IsNotFound(status)) {
    Erase(shard, node_id);
    return;
  }
  entry->state = State::kCloseLater;
  entry->retry_at_ns = now_ns + close_retry_ns_;
}

std::vector<Holding> ShardLedger::TakeDueCloses(int64_t now_ns) {
  std::vector<Holding> due;
  for (auto& [key, entry] : holdings_) {
    if (entry.state != State::kCloseLater || entry.retry_at_ns > now_ns) continue;
    entry.state = State::kClosing;
    due.push_back(entry.holding);
  }
  return due;
}

void ShardLedger::DropNode(const std::string& node_id) {
  std::erase_if(holdings_, [&](const auto& item) { return item.first.second == node_id; });
  nodes_.erase(node_id);
}

std::vector<ShardId> ShardLedger::OnReport(const std::string& node_id, const std::vector<ReportedShard>& reported,
                                           int64_t now_ns) {
  NodeUse& node = nodes_[node_id];
  absl::flat_hash_map<ShardId, int64_t> since_ns;
  std::vector<ShardId> orphans;
  node.foreign_bytes = 0;
  for (const ReportedShard& shard : reported) {
    if (Find(shard.shard_id, node_id) != nullptr) continue;
    node.foreign_bytes += shard.reserved_bytes;
    const auto known = node.foreign_since_ns.find(shard.shard_id);
    const int64_t first_ns = known == node.foreign_since_ns.end() ? now_ns : known->second;
    since_ns[shard.shard_id] = first_ns;
    if (now_ns - first_ns >= orphan_grace_ns_) orphans.push_back(shard.shard_id);
  }
  node.foreign_since_ns = std::move(since_ns);
  return orphans;
}

const Holding* ShardLedger::Find(ShardId shard, const std::string& node_id) const {
  const auto it = holdings_.find({shard, node_id});
  return it == holdings_.end() ? nullptr : &it->second.holding;
}

bool ShardLedger::Knows(ShardId shard) const {
  const auto it = holdings_.lower_bound({shard, ""});
  return it != holdings_.end() && it->first.first == shard;
}

uint64_t ShardLedger::UsedBytes(const std::string& node_id) const {
  const auto it = nodes_.find(node_id);
  return it == nodes_.end() ? 0 : it->second.own_bytes + it->second.foreign_bytes;
}

uint32_t ShardLedger::NumShards(const std::string& node_id) const {
  const auto it = nodes_.find(node_id);
  return it == nodes_.end() ? 0 : it->second.num_shards;
}

ShardLedger::Entry* ShardLedger::FindEntry(ShardId shard, const std::string& node_id) {
  const auto it = holdings_.find({shard, node_id});
  return it == holdings_.end() ? nullptr : &it->second;
}

void ShardLedger::Erase(ShardId shard, const std::string& node_id) {
  const auto it = holdings_.find({shard, node_id});
  NodeUse& node = nodes_[node_id];
  node.own_bytes -= it->second.holding.bytes;
  node.num_shards -= 1;
  holdings_.erase(it);
}

}  // namespace tributary

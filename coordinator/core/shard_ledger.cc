#include "coordinator/core/shard_ledger.h"

#include <algorithm>
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

void ShardLedger::Reserve(LedgerShard shard) {
  NodeUse& node = nodes_[shard.node_id];
  node.own_bytes += shard.bytes;
  node.num_shards += 1;
  const ShardId id = shard.spec.shard_id;
  const bool inserted = shards_.try_emplace(id, Entry{std::move(shard)}).second;
  TRIBUTARY_CHECK(inserted);
}

ShardLedger::OpenResult ShardLedger::OnOpened(ShardId shard, const absl::Status& status) {
  const auto it = shards_.find(shard);
  if (it == shards_.end()) return {};
  Entry& entry = it->second;
  if (entry.state != State::kOpening && entry.state != State::kDoomed) return {};
  if (!status.ok() && SurelyNotOpened(status)) {
    Erase(shard);
    return {};
  }
  if (status.ok() && entry.state == State::kOpening) {
    entry.state = State::kOpen;
    return {true, Next::kNothing};
  }
  entry.state = State::kClosing;
  return {false, Next::kSendClose};
}

ShardLedger::Next ShardLedger::Close(ShardId shard) {
  const auto it = shards_.find(shard);
  if (it == shards_.end()) return Next::kNothing;
  Entry& entry = it->second;
  if (entry.state == State::kOpening) {
    entry.state = State::kDoomed;
    return Next::kNothing;
  }
  if (entry.state != State::kOpen) return Next::kNothing;
  entry.state = State::kClosing;
  return Next::kSendClose;
}

void ShardLedger::OnClosed(ShardId shard, const absl::Status& status, int64_t now_ns) {
  const auto it = shards_.find(shard);
  if (it == shards_.end() || it->second.state != State::kClosing) return;
  // FAILED_PRECONDITION: the node has the shard at a later epoch; NOT_FOUND: not at all. Both are
  // final.
  if (status.ok() || absl::IsFailedPrecondition(status) || absl::IsNotFound(status)) {
    Erase(shard);
    return;
  }
  it->second.state = State::kCloseLater;
  it->second.retry_at_ns = now_ns + close_retry_ns_;
}

std::vector<ShardId> ShardLedger::TakeDueCloses(int64_t now_ns) {
  std::vector<ShardId> due;
  for (auto& [id, entry] : shards_) {
    if (entry.state != State::kCloseLater || entry.retry_at_ns > now_ns) continue;
    entry.state = State::kClosing;
    due.push_back(id);
  }
  std::sort(due.begin(), due.end());
  return due;
}

void ShardLedger::DropNode(const std::string& node_id) {
  absl::erase_if(shards_, [&](const auto& item) { return item.second.shard.node_id == node_id; });
  nodes_.erase(node_id);
}

std::vector<ShardId> ShardLedger::OnReport(const std::string& node_id, const std::vector<ReportedShard>& reported,
                                           int64_t now_ns) {
  NodeUse& node = nodes_[node_id];
  absl::flat_hash_map<ShardId, int64_t> since_ns;
  std::vector<ShardId> orphans;
  node.foreign_bytes = 0;
  for (const ReportedShard& shard : reported) {
    const LedgerShard* own = Find(shard.shard_id);
    if (own != nullptr && own->node_id == node_id) continue;
    node.foreign_bytes += shard.reserved_bytes;
    const auto known = node.foreign_since_ns.find(shard.shard_id);
    const int64_t first_ns = known == node.foreign_since_ns.end() ? now_ns : known->second;
    since_ns[shard.shard_id] = first_ns;
    if (now_ns - first_ns >= orphan_grace_ns_) orphans.push_back(shard.shard_id);
  }
  node.foreign_since_ns = std::move(since_ns);
  return orphans;
}

const LedgerShard* ShardLedger::Find(ShardId shard) const {
  const auto it = shards_.find(shard);
  return it == shards_.end() ? nullptr : &it->second.shard;
}

uint64_t ShardLedger::UsedBytes(const std::string& node_id) const {
  const auto it = nodes_.find(node_id);
  return it == nodes_.end() ? 0 : it->second.own_bytes + it->second.foreign_bytes;
}

uint32_t ShardLedger::NumShards(const std::string& node_id) const {
  const auto it = nodes_.find(node_id);
  return it == nodes_.end() ? 0 : it->second.num_shards;
}

void ShardLedger::Erase(ShardId shard) {
  const auto it = shards_.find(shard);
  NodeUse& node = nodes_[it->second.shard.node_id];
  node.own_bytes -= it->second.shard.bytes;
  node.num_shards -= 1;
  shards_.erase(it);
}

}  // namespace tributary

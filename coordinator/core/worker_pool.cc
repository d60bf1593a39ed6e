#include "coordinator/core/worker_pool.h"

#include <algorithm>
#include <utility>

#include "base/check.h"
#include "base/limits.h"

namespace tributary {

void WorkerPool::Add(StreamId stream, const NodeDescription& node) {
  TRIBUTARY_CHECK(!StreamOf(node.node_id).has_value());
  const uint32_t max_batch = node.max_batch == 0 ? limits::kMaxBatch : std::min(node.max_batch, limits::kMaxBatch);
  const bool inserted =
      workers_.emplace(stream, Worker{node.node_id, node.incarnation, StepScheduler(max_batch)}).second;
  TRIBUTARY_CHECK(inserted);
}

void WorkerPool::Remove(StreamId stream) {
  const size_t num_removed = workers_.erase(stream);
  TRIBUTARY_CHECK_EQ(num_removed, 1u);
}

WorkerPool::Worker* WorkerPool::Find(StreamId stream) {
  const auto it = workers_.find(stream);
  return it == workers_.end() ? nullptr : &it->second;
}

const WorkerPool::Worker* WorkerPool::Find(StreamId stream) const {
  const auto it = workers_.find(stream);
  return it == workers_.end() ? nullptr : &it->second;
}

std::optional<StreamId> WorkerPool::StreamOf(const std::string& node_id) const {
  for (const auto& [stream, worker] : workers_) {
    if (worker.node_id == node_id) return stream;
  }
  return std::nullopt;
}

void WorkerPool::Assign(StreamId stream, uint64_t resident_bytes) {
  Worker& worker = workers_.at(stream);
  ++worker.sequences;
  worker.resident_bytes += resident_bytes;
}

void WorkerPool::Release(StreamId stream, SequenceId sequence, uint64_t resident_bytes) {
  Worker& worker = workers_.at(stream);
  TRIBUTARY_CHECK(worker.sequences > 0 && worker.resident_bytes >= resident_bytes);
  worker.scheduler.Leave(sequence);
  --worker.sequences;
  worker.resident_bytes -= resident_bytes;
}

void WorkerPool::Heard(StreamId stream, int64_t now_ns) {
  if (Worker* worker = Find(stream)) worker->heard_ns = now_ns;
}

std::vector<WorkerPool::DueStep> WorkerPool::TakeSteps(int64_t now_ns) {
  std::vector<DueStep> due;
  for (auto& [stream, worker] : workers_) {
    while (std::optional<StepScheduler::Step> step = worker.scheduler.Next(now_ns)) {
      due.push_back({stream, *std::move(step)});
    }
  }
  return due;
}

void WorkerPool::NodeCameAnew(const std::string& node_id) {
  for (auto& [stream, worker] : workers_) worker.suspects.OnSuccess(node_id);
}

std::vector<WorkerRoom> WorkerPool::Rooms(const Membership& membership, int64_t now_ns) const {
  std::vector<WorkerRoom> rooms;
  for (const auto& [stream, worker] : workers_) {
    const Member* member = membership.Find(worker.node_id);
    if (member == nullptr || !member->may_return()) continue;
    const uint64_t capacity = member->node.kv_capacity_bytes;
    rooms.push_back({worker.node_id, capacity, capacity - std::min(capacity, worker.resident_bytes), worker.sequences,
                     member->node.max_token_stripes, member->usable()});
    for (const auto& [id, node] : membership.members()) {
      if (worker.suspects.IsSuspect(id, now_ns)) rooms.back().unreachable_nodes.push_back(id);
    }
  }
  return rooms;
}

std::optional<ServingLimits> WorkerPool::Limits(const Membership& membership) const {
  std::optional<ServingLimits> limits;
  const auto lower = [](auto& limit, auto value) {
    if (value != 0 && (limit == 0 || value < limit)) limit = value;
  };
  for (const auto& [stream, worker] : workers_) {
    const Member* member = membership.Find(worker.node_id);
    if (member == nullptr || !member->may_return()) continue;
    if (!limits) limits.emplace().geometry = member->node.geometry;
    lower(limits->max_context_tokens, member->node.max_context_tokens);
    lower(limits->max_prompt_tokens, member->node.max_prompt_tokens);
  }
  return limits;
}

}  // namespace tributary

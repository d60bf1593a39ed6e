#include "coordinator/core/membership.h"

#include <bit>

#include "attention/shape.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// A row of the longest head in f32 fits four times.
constexpr uint32_t kMinExtentBytes = 4096;

std::string GeometryText(const ModelGeometry& g) {
  const std::string windowed = g.num_windowed_layers == 0 ? ""
                                                          : fmt::format(" ({} of them with a window of {} tokens)",
                                                                        g.num_windowed_layers, g.sliding_window_tokens);
  return fmt::format("model '{}' with {} layers{}, {} query heads, {} KV heads, head_dim {}, vocabulary {}",
                     g.model_name, g.num_layers, windowed, g.attention.num_q_heads, g.attention.num_kv_heads,
                     g.attention.head_dim, g.vocab_size);
}

absl::Status CheckGeometry(const std::string& node_id, const ModelGeometry& geometry) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(geometry.attention));
  if (geometry.num_layers == 0 || geometry.num_layers > limits::kMaxLayers) {
    return absl::InvalidArgumentError(fmt::format("worker '{}' states {} layers; allowed are 1 to {}", node_id,
                                                  geometry.num_layers, limits::kMaxLayers));
  }
  const uint32_t windowed = geometry.num_windowed_layers;
  if (windowed > geometry.num_layers || (windowed != 0) != (geometry.sliding_window_tokens != 0) ||
      geometry.sliding_window_tokens > limits::kMaxContextTokens) {
    return absl::InvalidArgumentError(fmt::format("worker '{}' states {} of {} layers with a window, of {} tokens",
                                                  node_id, windowed, geometry.num_layers,
                                                  geometry.sliding_window_tokens));
  }
  if (geometry.vocab_size == 0 || geometry.vocab_size > limits::kMaxVocab) {
    return absl::InvalidArgumentError(fmt::format("worker '{}' states a vocabulary of {}; allowed are 1 to {}", node_id,
                                                  geometry.vocab_size, limits::kMaxVocab));
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status Membership::CheckDescription(const NodeDescription& node) const {
  if (node.node_id.empty() || node.node_id.size() > limits::kMaxNodeIdBytes) {
    return absl::InvalidArgumentError(
        fmt::format("node id has {} bytes; allowed are 1 to {}", node.node_id.size(), limits::kMaxNodeIdBytes));
  }
  if (node.protocol_version != options_.protocol_version) {
    return absl::FailedPreconditionError(
        fmt::format("node '{}' (release {}) speaks protocol version {}, this coordinator speaks "
                    "{}; run the same "
                    "release on both",
                    node.node_id, node.version, node.protocol_version, options_.protocol_version));
  }
  if (node.role == NodeRole::kCpuAttention) {
    if (node.control_address.empty()) {
      return absl::InvalidArgumentError(
          fmt::format("node '{}' states no control address; shards could not be opened there", node.node_id));
    }
    if (!std::has_single_bit(node.extent_bytes) || node.extent_bytes < kMinExtentBytes ||
        node.kv_capacity_bytes < node.extent_bytes) {
      return absl::InvalidArgumentError(
          fmt::format("node '{}' states {} bytes of KV memory in extents of {} bytes; extents must be "
                      "a power of two of at least {} bytes, and there must be one",
                      node.node_id, node.kv_capacity_bytes, node.extent_bytes, kMinExtentBytes));
    }
    return absl::OkStatus();
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckGeometry(node.node_id, node.geometry));
  for (const auto& [id, member] : members_) {
    const bool other_worker =
        id != node.node_id && member.node.role == NodeRole::kGpuWorker && member.state != MemberState::kDead;
    if (other_worker && member.node.geometry != node.geometry) {
      return absl::FailedPreconditionError(
          fmt::format("worker '{}' serves {}, but this cluster serves {} (worker '{}'); start it with the same "
                      "model, or a cluster of its own",
                      node.node_id, GeometryText(node.geometry), GeometryText(member.node.geometry), id));
    }
  }
  return absl::OkStatus();
}

absl::Status Membership::CheckIdIsFree(const NodeDescription& node, int64_t now_ns) const {
  const auto it = members_.find(node.node_id);
  if (it == members_.end() || it->second.node.incarnation == node.incarnation) return absl::OkStatus();
  const Member& member = it->second;
  const int64_t silent_ns = now_ns - member.last_heard_ns;
  if (member.state == MemberState::kDead || silent_ns >= options_.dead_after_ns) return absl::OkStatus();
  return absl::AlreadyExistsError(fmt::format(
      "node id '{}' belongs to another process, a {} with incarnation {}{}, heard of {:.1f} s ago; give this one "
      "another --node-id, or stop that one first: {:.0f} s after it was last heard its id is free",
      node.node_id, NodeRoleName(member.node.role), member.node.incarnation,
      member.node.control_address.empty() ? "" : " at " + member.node.control_address, SecondsFromNs(silent_ns),
      SecondsFromNs(options_.dead_after_ns)));
}

absl::Status Membership::Register(const NodeDescription& node, int64_t now_ns, std::vector<MemberChange>* changes) {
  TRIBUTARY_RETURN_IF_ERROR(CheckDescription(node));
  if (fenced_.contains({node.node_id, node.incarnation})) {
    return absl::FailedPreconditionError(
        fmt::format("incarnation {} of node '{}' was replaced by a later one; two processes use this "
                    "node id: give one of them another",
                    node.incarnation, node.node_id));
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckIdIsFree(node, now_ns));
  if (members_.size() >= limits::kMaxMembers && !members_.contains(node.node_id)) {
    return absl::ResourceExhaustedError(fmt::format(
        "node '{}' would be member {}; a cluster has at most {}, and forgets dead ones {} s after they were "
        "last heard",
        node.node_id, members_.size() + 1, limits::kMaxMembers, options_.forget_after_ns / 1'000'000'000));
  }
  auto [it, inserted] = members_.try_emplace(node.node_id);
  Member& member = it->second;
  if (!inserted && member.node.incarnation != node.incarnation) {
    fenced_.insert({node.node_id, member.node.incarnation});
    if (!member.is_gone) SetState(member, MemberState::kDead, changes, /*is_gone=*/true);
  }
  const bool is_new = inserted || member.node.incarnation != node.incarnation;
  member.node = node;
  member.last_heard_ns = now_ns;
  if (is_new) member.free_bytes = node.kv_capacity_bytes;
  if (is_new || member.state == MemberState::kDead || member.state == MemberState::kSuspect) {
    SetState(member, MemberState::kAlive, changes);
  }
  return absl::OkStatus();
}

absl::Status Membership::Heartbeat(const std::string& node_id, uint64_t incarnation, uint64_t free_bytes,
                                   uint32_t reported_shards, bool draining, int64_t now_ns,
                                   std::vector<MemberChange>* changes) {
  const auto it = members_.find(node_id);
  if (it == members_.end() || it->second.node.incarnation != incarnation) {
    return absl::NotFoundError(
        fmt::format("incarnation {} of node '{}' is not registered here; register again", incarnation, node_id));
  }
  Member& member = it->second;
  member.last_heard_ns = now_ns;
  member.free_bytes = free_bytes;
  member.reported_shards = reported_shards;
  if (draining) {
    if (member.state != MemberState::kDraining) SetState(member, MemberState::kDraining, changes);
  } else if (member.state == MemberState::kDead) {
    SetState(member, MemberState::kSuspect, changes);
  } else if (member.state != MemberState::kAlive) {
    SetState(member, MemberState::kAlive, changes);
  }
  return absl::OkStatus();
}

void Membership::Suspect(const std::string& node_id, std::vector<MemberChange>* changes) {
  const auto it = members_.find(node_id);
  if (it != members_.end() && it->second.state == MemberState::kAlive) {
    SetState(it->second, MemberState::kSuspect, changes);
  }
}

void Membership::Leave(const std::string& node_id, uint64_t incarnation, std::vector<MemberChange>* changes) {
  const auto it = members_.find(node_id);
  if (it == members_.end() || it->second.node.incarnation != incarnation) return;
  if (!it->second.is_gone) SetState(it->second, MemberState::kDead, changes, /*is_gone=*/true);
}

void Membership::Tick(int64_t now_ns, std::vector<MemberChange>* changes) {
  for (auto it = members_.begin(); it != members_.end();) {
    Member& member = it->second;
    const int64_t silent_ns = now_ns - member.last_heard_ns;
    if (member.state != MemberState::kDead && silent_ns >= options_.dead_after_ns) {
      SetState(member, MemberState::kDead, changes);
    } else if (member.state == MemberState::kAlive && silent_ns >= options_.suspect_after_ns) {
      SetState(member, MemberState::kSuspect, changes);
    } else if (member.state == MemberState::kDead && silent_ns >= options_.forget_after_ns) {
      if (!member.is_gone) SetState(member, MemberState::kDead, changes, /*is_gone=*/true);
      std::erase_if(fenced_, [&](const auto& entry) { return entry.first == member.node.node_id; });
      it = members_.erase(it);
      ++epoch_;
      continue;
    }
    ++it;
  }
}

const Member* Membership::Find(const std::string& node_id) const {
  const auto it = members_.find(node_id);
  return it == members_.end() ? nullptr : &it->second;
}

std::optional<ModelGeometry> Membership::geometry() const {
  for (const auto& [id, member] : members_) {
    if (member.node.role == NodeRole::kGpuWorker && member.state != MemberState::kDead) {
      return member.node.geometry;
    }
  }
  return std::nullopt;
}

void Membership::SetState(Member& member, MemberState state, std::vector<MemberChange>* changes, bool is_gone) {
  member.state = state;
  member.is_gone = is_gone;
  ++epoch_;
  changes->push_back({member.node, state, is_gone});
}

}  // namespace tributary

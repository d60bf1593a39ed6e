#include "coordinator/core/placement.h"

#include <algorithm>
#include <optional>

#include "base/limits.h"
#include "fmt/format.h"
#include "kv_store/shard_needs.h"
#include "policy/policy.h"

namespace tributary {
namespace {

// How a sequence is cut: `head_parts` ranges of KV heads, each dealt to `num_stripes` token
// stripes.
struct CutPlan {
  uint32_t head_parts = 1;
  uint32_t num_stripes = 1;
};

enum class Measure { kAvailable, kCapacity };

uint64_t RoomOf(const NodeRoom& node, Measure measure) {
  return measure == Measure::kAvailable ? node.available_bytes : node.capacity_bytes;
}

uint64_t StripeTokens(const Demand& demand) {
  const uint64_t block = demand.placement.block_tokens;
  return std::max<uint64_t>(block, kMinStripeTokens / block * block);
}

// The cut over at most `num_nodes` nodes; a stripe that would stay empty is not made.
CutPlan CutFor(const Demand& demand, uint32_t num_nodes, uint32_t max_stripes) {
  const uint64_t runs = (MaxRemoteTokens(demand) + StripeTokens(demand) - 1) / StripeTokens(demand);
  const auto stripes = [&](uint32_t wanted) {
    return static_cast<uint32_t>(std::min<uint64_t>({std::max(wanted, 1u), runs, max_stripes}));
  };
  switch (demand.placement.cut) {
    case Cut::kHeads:
      return {std::min(num_nodes, demand.geometry.attention.num_kv_heads), 1};
    case Cut::kBoth:
      return {2, stripes(num_nodes / 2)};
    case Cut::kAuto:
    case Cut::kTokens:
      break;
  }
  return {1, stripes(num_nodes)};
}

std::vector<ShardPlacement> MakeShards(const Demand& demand, CutPlan cut) {
  const PlacementOptions& placement = demand.placement;
  const uint32_t num_kv_heads = demand.geometry.attention.num_kv_heads;
  const TokenRange remote{placement.sink_tokens, placement.sink_tokens + MaxRemoteTokens(demand)};
  std::vector<ShardPlacement> shards;
  for (uint32_t part = 0; part < cut.head_parts; ++part) {
    for (uint32_t stripe_idx = 0; stripe_idx < cut.num_stripes; ++stripe_idx) {
      ShardPlacement shard;
      ShardSpec& spec = shard.spec;
      spec.model = demand.geometry.attention;
      spec.num_layers = demand.geometry.num_shard_layers();
      spec.layer_end = spec.num_layers;
      spec.kv_head_begin = num_kv_heads * part / cut.head_parts;
      spec.kv_head_end = num_kv_heads * (part + 1) / cut.head_parts;
      spec.stripe = {placement.sink_tokens, StripeTokens(demand), cut.num_stripes, stripe_idx};
      spec.capacity_tokens = spec.stripe.CountIn(remote);
      spec.k_dtype = placement.remote_k_dtype;
      spec.v_dtype = placement.remote_v_dtype;
      spec.policy = demand.policy;
      shards.push_back(std::move(shard));
    }
  }
  return shards;
}

// The shards for at most `num_nodes` nodes; none if the cut that the demand has is too fine for the worker.
std::vector<ShardPlacement> ShardsFor(const Demand& demand, uint32_t num_nodes, uint32_t max_stripes) {
  if (demand.cut.empty()) return MakeShards(demand, CutFor(demand, num_nodes, max_stripes));
  std::vector<ShardPlacement> shards;
  if (demand.cut.front().stripe.num_stripes > max_stripes) return shards;
  for (const ShardSpec& spec : demand.cut) shards.push_back({spec, {}});
  return shards;
}

// Whether the node's extents are large enough for this geometry and dtypes.
absl::Status ExtentsFit(const NodeRoom& node, const Demand& demand) {
  return ShardReservedBytes(MakeShards(demand, CutPlan()).front().spec, node.extent_bytes).status();
}

// Gives shard i to nodes[i % num_nodes]; nullopt if one has no room.
std::optional<std::vector<ShardPlacement>> Assign(std::vector<ShardPlacement> shards,
                                                  const std::vector<const NodeRoom*>& nodes, uint32_t num_nodes,
                                                  Measure measure) {
  std::vector<uint64_t> used_bytes(num_nodes, 0);
  for (size_t i = 0; i < shards.size(); ++i) {
    const NodeRoom& node = *nodes[i % num_nodes];
    shards[i].holders = {node.endpoint};
    const absl::StatusOr<uint64_t> bytes = ShardReservedBytes(shards[i].spec, node.extent_bytes);
    if (!bytes.ok()) return std::nullopt;
    used_bytes[i % num_nodes] += *bytes;
    if (used_bytes[i % num_nodes] > RoomOf(node, measure)) return std::nullopt;
  }
  return shards;
}

std::optional<std::vector<ShardPlacement>> PlaceShards(const std::vector<NodeRoom>& nodes, const Demand& demand,
                                                       uint32_t max_stripes, Measure measure) {
  std::vector<const NodeRoom*> order;
  for (const NodeRoom& node : nodes) {
    if (!ExtentsFit(node, demand).ok()) continue;
    if (node.usable || measure == Measure::kCapacity) order.push_back(&node);
  }
  std::sort(order.begin(), order.end(), [&](const NodeRoom* a, const NodeRoom* b) {
    const uint64_t room_a = RoomOf(*a, measure);
    const uint64_t room_b = RoomOf(*b, measure);
    return room_a != room_b ? room_a > room_b : a->endpoint.node_id < b->endpoint.node_id;
  });
  uint32_t num_nodes = static_cast<uint32_t>(order.size());
  if (demand.placement.max_nodes != 0) num_nodes = std::min(num_nodes, demand.placement.max_nodes);
  for (; num_nodes > 0; --num_nodes) {
    std::vector<ShardPlacement> shards = ShardsFor(demand, num_nodes, max_stripes);
    if (shards.empty() || shards.size() > limits::kMaxShardsPerSequence) continue;
    if (auto placed = Assign(std::move(shards), order, num_nodes, measure)) return placed;
  }
  return std::nullopt;
}

uint64_t ResidentBytes(const Demand& demand) {
  const uint64_t tokens = MaxResidentTokens(demand);
  const uint64_t kv_bytes = tokens * demand.geometry.KvBytesPerToken(demand.placement.kv_dtype);
  // A policy has a facet on the worker only for sequences that can have shards.
  const uint64_t remote_tokens = MaxRemoteTokens(demand);
  if (remote_tokens == 0 || demand.geometry.num_shard_layers() == 0) return kv_bytes;
  const AttentionShape& shape = demand.geometry.attention;
  return kv_bytes + MakePolicy(demand.policy)
                        ->FacetBytes({.num_layers = demand.geometry.num_shard_layers(),
                                      .num_kv_heads = shape.num_kv_heads,
                                      .num_q_heads = shape.num_q_heads,
                                      .resident_tokens = tokens,
                                      .max_context_tokens = tokens + remote_tokens});
}

// The workers that have room, those with the fewest sequences first.
std::vector<const WorkerRoom*> ChooseWorkers(const std::vector<WorkerRoom>& workers, uint64_t bytes, Measure measure) {
  std::vector<const WorkerRoom*> chosen;
  for (const WorkerRoom& worker : workers) {
    const uint64_t room = measure == Measure::kAvailable ? worker.available_bytes : worker.capacity_bytes;
    if (measure == Measure::kAvailable && !worker.usable) continue;
    if (worker.capacity_bytes == 0 || room >= bytes) chosen.push_back(&worker);
  }
  std::stable_sort(chosen.begin(), chosen.end(),
                   [](const WorkerRoom* a, const WorkerRoom* b) { return a->sequences < b->sequences; });
  return chosen;
}

// As this worker sees them.
std::vector<NodeRoom> NodesFor(const WorkerRoom& worker, std::vector<NodeRoom> nodes) {
  const std::vector<std::string>& unreachable = worker.unreachable_nodes;
  for (NodeRoom& node : nodes) {
    const bool is_reached =
        std::find(unreachable.begin(), unreachable.end(), node.endpoint.node_id) == unreachable.end();
    node.usable = node.usable && is_reached;
  }
  return nodes;
}

uint32_t MaxStripes(const WorkerRoom& worker) {
  return worker.max_token_stripes == 0 ? limits::kMaxTokenStripes
                                       : std::min(worker.max_token_stripes, limits::kMaxTokenStripes);
}

PlacementResult NoWorkerRoom(const ClusterRoom& cluster, const Demand& demand) {
  const uint64_t bytes = ResidentBytes(demand);
  if (!ChooseWorkers(cluster.workers, bytes, Measure::kCapacity).empty()) {
    return {absl::ResourceExhaustedError(fmt::format("no GPU worker has {} bytes of resident KV free now", bytes)),
            true};
  }
  uint64_t largest_bytes = 0;
  for (const WorkerRoom& worker : cluster.workers) {
    largest_bytes = std::max(largest_bytes, worker.capacity_bytes);
  }
  return {absl::ResourceExhaustedError(
      fmt::format("{} resident tokens need {} bytes; the largest GPU worker has {}: ask for a "
                  "smaller window or "
                  "start the worker with a larger --resident-pool-bytes",
                  MaxResidentTokens(demand), bytes, largest_bytes))};
}

PlacementResult NoNodeRoom(const ClusterRoom& cluster, const Demand& demand, uint32_t max_stripes) {
  if (cluster.nodes.empty()) {
    return {
        absl::UnavailableError(fmt::format("{} tokens of this request belong on CPU attention nodes, and none is "
                                           "registered; start tributary-cpu-attention, or ask for an all-resident run",
                                           MaxRemoteTokens(demand)))};
  }
  // What one node would reserve for all of it; cut up, a little more, since every shard takes whole extents.
  uint64_t capacity_bytes = 0;
  uint64_t needed_bytes = UINT64_MAX;
  absl::Status misfit;
  for (const NodeRoom& node : cluster.nodes) {
    if (const absl::Status fit = ExtentsFit(node, demand); !fit.ok()) {
      misfit = fit;
      continue;
    }
    capacity_bytes += node.capacity_bytes;
    uint64_t bytes = 0;
    for (const ShardPlacement& shard : ShardsFor(demand, 1, max_stripes)) {
      bytes += ShardReservedBytes(shard.spec, node.extent_bytes).value_or(0);
    }
    needed_bytes = std::min(needed_bytes, bytes);
  }
  if (needed_bytes == UINT64_MAX) return {misfit};  // on no node
  if (PlaceShards(cluster.nodes, demand, max_stripes, Measure::kCapacity)) {
    return {absl::ResourceExhaustedError(
                fmt::format("the KV of this request needs {} bytes, which are not free now", needed_bytes)),
            true};
  }
  return {absl::ResourceExhaustedError(
      fmt::format("{} remote tokens need at least {} bytes in whole extents; the {} CPU attention nodes have "
                  "{} "
                  "together: shorten the prompt or max_tokens, or add nodes or memory (--kv-pool-bytes)",
                  MaxRemoteTokens(demand), needed_bytes, cluster.nodes.size(), capacity_bytes))};
}

}  // namespace

uint64_t MaxRemoteTokens(const Demand& demand) {
  const WindowLayout layout = demand.placement.layout();
  return layout.RemoteEnd(demand.max_context_tokens) - layout.sink_tokens;
}

uint64_t MaxResidentTokens(const Demand& demand) {
  return demand.placement.layout().CapacityTokens(demand.max_context_tokens);
}

PlacementResult Place(const ClusterRoom& cluster, const Demand& demand) {
  if (cluster.workers.empty()) {
    return {absl::UnavailableError("no GPU worker is registered; start tributary-gpu-worker")};
  }
  const uint64_t resident_bytes = ResidentBytes(demand);
  const std::vector<const WorkerRoom*> workers = ChooseWorkers(cluster.workers, resident_bytes, Measure::kAvailable);
  if (workers.empty()) return NoWorkerRoom(cluster, demand);
  const bool has_shards = MaxRemoteTokens(demand) > 0 && demand.geometry.num_shard_layers() > 0;
  for (const WorkerRoom* worker : workers) {
    PlacementPlan plan{worker->node_id, resident_bytes, {}};
    if (!has_shards) return {absl::OkStatus(), false, std::move(plan)};
    auto shards = PlaceShards(NodesFor(*worker, cluster.nodes), demand, MaxStripes(*worker), Measure::kAvailable);
    if (!shards) continue;
    plan.shards = *std::move(shards);
    return {absl::OkStatus(), false, std::move(plan)};
  }
  return NoNodeRoom(cluster, demand, MaxStripes(*workers.front()));
}

}  // namespace tributary

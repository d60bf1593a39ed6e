#include "cpu_attention_service/node/attention_metrics.h"

#include "telemetry/metric_names.h"

namespace tributary {

AttentionMetrics::AttentionMetrics(MetricRegistry& registry)
    : queue_wait_seconds(registry.histogram(metrics::kAttentionQueueWait)),
      compute_seconds(registry.histogram(metrics::kAttentionCompute)),
      batch_queries(registry.histogram(metrics::kAttentionBatchQueries)),
      attended_tokens(registry.counter(metrics::kAttendedTokens)),
      covered_tokens(registry.counter(metrics::kCoveredTokens)),
      quantised_tokens(registry.counter(metrics::kQuantisedTokens)),
      kept_mass(registry.histogram(metrics::kKeptMass)),
      fallback_heads(registry.gauge(metrics::kFallbackHeads)),
      selection_seconds(registry.histogram(metrics::kSelectionDuration)),
      reselection_seconds(registry.histogram(metrics::kReselectionDuration)),
      append_weights_seconds(registry.histogram(metrics::kAppendWeightsDuration)),
      policy_update_seconds(registry.histogram(metrics::kPolicyUpdateDuration)),
      row_cache_bytes(registry.gauge(metrics::kRowCacheBytes)),
      ingest_bytes(registry.counter(metrics::kKvIngestBytes)),
      checked_read_bytes(registry.counter(metrics::kKvCheckedBytes, {"read"})),
      checked_scrub_bytes(registry.counter(metrics::kKvCheckedBytes, {"scrub"})),
      corrupt_tiles(registry.counter(metrics::kKvCorruptTiles)),
      scrub_passes(registry.counter(metrics::kKvScrubPasses)),
      scrub_pass(registry.gauge(metrics::kKvScrubPass)),
      kv_capacity_bytes(registry.gauge(metrics::kKvCapacity)),
      kv_used_bytes(registry.gauge(metrics::kKvUsed)),
      kv_shards(registry.gauge(metrics::kKvShards)),
      sessions(registry.gauge(metrics::kSessions)),
      transport(registry) {
  for (uint32_t i = 0; i < kNumFrameErrors; ++i) {
    const std::string_view name = FrameErrorName(static_cast<FrameError>(i));
    requests[i] = registry.counter(metrics::kAttentionRequests, {name});
    if (i != 0) frames_rejected[i] = registry.counter(metrics::kFramesRejected, {name});
  }
}

}  // namespace tributary

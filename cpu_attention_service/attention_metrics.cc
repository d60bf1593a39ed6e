#include "cpu_attention_service/attention_metrics.h"

#include "telemetry/metric_names.h"

namespace tributary {

AttentionMetrics::AttentionMetrics(MetricRegistry& registry)
    : queue_wait_seconds(registry.histogram(metrics::kAttentionQueueWait)),
      compute_seconds(registry.histogram(metrics::kAttentionCompute)),
      batch_queries(registry.histogram(metrics::kAttentionBatchQueries)),
      attended_tokens(registry.counter(metrics::kAttendedTokens)),
      ingest_bytes(registry.counter(metrics::kKvIngestBytes)),
      kv_capacity_bytes(registry.gauge(metrics::kKvCapacity)),
      kv_used_bytes(registry.gauge(metrics::kKvUsed)),
      kv_shards(registry.gauge(metrics::kKvShards)),
      sessions(registry.gauge(metrics::kSessions)),
      bytes_sent(registry.counter(metrics::kTransportBytes, {"sent"})),
      bytes_received(registry.counter(metrics::kTransportBytes, {"received"})),
      frames_sent(registry.counter(metrics::kTransportFrames, {"sent"})),
      frames_received(registry.counter(metrics::kTransportFrames, {"received"})),
      endpoint_errors(registry.counter(metrics::kTransportEndpointErrors)) {
  for (uint32_t i = 0; i < kNumFrameErrors; ++i) {
    const std::string_view name = FrameErrorName(static_cast<FrameError>(i));
    requests[i] = registry.counter(metrics::kAttentionRequests, {name});
    if (i != 0) frames_rejected[i] = registry.counter(metrics::kFramesRejected, {name});
  }
}

void AttentionMetrics::SetTransport(const DataPlaneCounters& counters) {
  bytes_sent.AdvanceTo(static_cast<double>(counters.bytes_sent));
  bytes_received.AdvanceTo(static_cast<double>(counters.bytes_received));
  frames_sent.AdvanceTo(static_cast<double>(counters.frames_sent));
  frames_received.AdvanceTo(static_cast<double>(counters.frames_received));
  endpoint_errors.AdvanceTo(static_cast<double>(counters.endpoint_errors));
}

}  // namespace tributary

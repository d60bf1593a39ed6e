// The metrics of a CPU attention node (telemetry/metric_names.h), handles resolved at start.
//
// A default-constructed one counts nothing. Thread-compatible: used by the I/O thread alone.
#pragma once

#include <array>

#include "telemetry/metrics.h"
#include "telemetry/transport_metrics.h"
#include "wire/frame.h"

namespace tributary {

struct AttentionMetrics {
  AttentionMetrics() = default;
  explicit AttentionMetrics(MetricRegistry& registry);

  void CountRequest(FrameError outcome) { requests[static_cast<size_t>(outcome)].Increment(); }
  void CountRejected(FrameError reason) { frames_rejected[static_cast<size_t>(reason)].Increment(); }

  std::array<Counter, kNumFrameErrors> requests;         // per query entry, by outcome
  std::array<Counter, kNumFrameErrors> frames_rejected;  // by reason
  Histogram queue_wait_seconds;
  Histogram compute_seconds;
  Histogram batch_queries;
  Counter attended_tokens;
  Counter covered_tokens;
  Counter quantised_tokens;
  Histogram kept_mass;
  Gauge fallback_heads;
  Histogram selection_seconds;
  Histogram reselection_seconds;
  Histogram append_weights_seconds;
  Histogram policy_update_seconds;
  Gauge row_cache_bytes;
  Counter ingest_bytes;
  Counter checked_read_bytes;
  Counter checked_scrub_bytes;
  Counter corrupt_tiles;
  Counter scrub_passes;
  Gauge scrub_pass;
  Gauge kv_capacity_bytes;
  Gauge kv_used_bytes;
  Gauge kv_shards;
  Gauge sessions;
  TransportMetrics transport;
};

}  // namespace tributary

// The GPU worker's metric handles (telemetry/metric_names.h). Default-constructed ones do nothing.
#pragma once

#include <array>
#include <span>
#include <vector>

#include "gpu_worker/device/device.h"
#include "telemetry/metrics.h"
#include "telemetry/transport_metrics.h"
#include "wire/frame.h"

namespace tributary {

// The stages of a decode step, in order; names label metrics, traces and summaries.
enum class Stage { kQkv, kQuerySend, kLocalAttention, kRemoteWait, kMergeMlp, kSample };
inline constexpr size_t kNumStages = 6;
inline constexpr std::array<const char*, kNumStages> kStageNames = {"qkv",         "query_send", "local_attention",
                                                                    "remote_wait", "merge_mlp",  "sample"};

struct EngineMetrics {
  EngineMetrics() = default;
  explicit EngineMetrics(MetricRegistry& registry);

  Histogram step_duration;
  std::array<Histogram, kNumStages> stage_duration;
  Histogram remote_exposed;
  Histogram remote_attention;
  Counter gpu_busy, gpu_remote_wait;
  Gauge gpu_idle;
  Counter partials_ok, partials_late, partials_invalid, partials_missing;
  Histogram batch_size;
  Histogram prefill_duration;
  Gauge sequences, kept_sequences;
  Counter appended_tokens;
  std::array<Counter, 17> sequences_failed;  // by absl::StatusCode
  Gauge resident_capacity, resident_used;
  // Takes the figures of DeviceMemory, whose kinds keep their order.
  void SetPolicyBytes(std::span<const PolicyBytes> bytes);
  Gauge spill_queue_blocks;
  Gauge stalled_sequences;
  Counter stalls;
  Counter spill_bytes;
  Counter sparse_covered, sparse_attended;
  Histogram kept_mass_mean, kept_mass_min, output_error;
  std::array<Counter, kNumFrameErrors> spill_acks;
  std::array<Counter, kNumFrameErrors> frames_rejected;
  TransportMetrics transport;

 private:
  MetricRegistry* registry_ = nullptr;
  std::vector<Gauge> policy_bytes_;  // by kind
};

}  // namespace tributary

// What an engine is made with. Plain values; DecodeEngine::Create says which contradict each other.
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "base/clock.h"
#include "base/ids.h"
#include "gpu_worker/remote/remote_nodes.h"
#include "gpu_worker/sequence/sequence_plan.h"
#include "transport/idle_strategy.h"

namespace tributary {

// Sees the logits of one row: f32 [vocab_size], from which the token at answer index `index` is taken.
using LogitsObserver = std::function<void(SequenceId sequence, uint64_t index, std::span<const float> logits)>;

struct EngineOptions {
  ModelLimits model;  // max_partial_slots is taken from the device's limits
  float softmax_scale = 0;
  float soft_cap = 0;  // of attention scores; 0: none
  RemoteNodesOptions nodes;
  uint64_t spill_window_bytes = 16u << 20;  // unacknowledged, per node
  uint32_t spill_frame_bytes = 512u << 10;  // about the largest spill frame
  int64_t spill_timeout_ns = 10 * kNsPerS;  // without an acknowledgement
  int64_t step_timeout_ns = 10 * kNsPerS;   // for steps that state none
  int64_t max_stall_ns = 60 * kNsPerS;      // for turns that state none
  IdleOptions idle;                         // how a step waits for nodes
  // Appended tokens of one sequence in one step, at most max_batch: as many as the nodes' kernels
  // take at once.
  uint32_t append_chunk_tokens = 8;
  // Sees every row's logits before they are sampled (tests).
  LogitsObserver logits_observer;
};

}  // namespace tributary

// The prefill of one prompt, layer by layer, in small units so that decode steps run in between.
//
// Each layer goes through four phases:
//
//   project   The device computes QKV of each chunk. Then its layer buffer holds K and V of the whole prompt.
//   copy      Sinks and window are copied to the sequence's resident slots; its facet, if any, sees the rest.
//   attend    The device attends chunk by chunk. In between, remote tokens go out as spill frames, as far as the nodes
//             have room.
//   stream    The rest of them goes out (of a layer whose attention sees a window only, nothing does). The next layer's
//             projection may overwrite the layer buffer only after that.
//
// After the last layer the logits of the last token are there. The caller still has to wait for the acknowledgements
// (SpillSender).
//
// Thread-compatible.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/device/facet.h"
#include "gpu_worker/device/layer_map.h"
#include "gpu_worker/sequence/window_cache.h"
#include "gpu_worker/spill/spill.h"

namespace tributary {

struct PrefillInput {
  std::span<const uint32_t> prompt;
  DType kv_dtype = DType::kUnset;
  ResidentId resident;
  const WindowCache* cache = nullptr;  // Prefilled(prompt.size())
  std::span<const BoundShard> shards;
  LayerMap layers;
  uint32_t num_q_heads = 0;
  uint32_t num_kv_heads = 0;
  uint32_t head_dim = 0;
  uint32_t spill_frame_bytes = 0;
};

class PrefillJob {
 public:
  enum class Progress {
    kWorked,   // more to do
    kWaiting,  // for room on a node: poll first
    kDone,     // logits() are there
  };

  // Everything in `input` outlives the job; device and spill too. Takes no memory of the device before its first unit,
  // and gives it back when it is destroyed.
  PrefillJob(const PrefillInput& input, Device* device, SpillSender* spill);
  PrefillJob(const PrefillJob&) = delete;
  PrefillJob& operator=(const PrefillJob&) = delete;

  // Does one unit. Errors: the device's (memory), after which the job is as it was. A failed node is no error here: its
  // sequences end elsewhere.
  absl::StatusOr<Progress> RunUnit();

  uint32_t layers_done() const { return layer_; }
  uint64_t prompt_tokens() const { return input_.prompt.size(); }
  // An estimate of what is left for the device to do, for comparing jobs of one model: multiplications per layer, as
  // if hidden states were as wide as q and the MLP had three products 3.5 times as wide, in multiples of q's width.
  double work_left() const { return work_left_; }
  double fraction() const;
  bool has_begun() const { return prefill_ != nullptr; }
  // The logits of the prompt's last token, f32 [vocab_size]. REQUIRES: kDone.
  std::span<const float> logits() const { return logits_; }

 private:
  enum class Phase { kBegin, kProject, kAttend, kStream, kEnd, kDone };

  uint64_t num_chunks() const;
  double ProjectWork(uint64_t tokens) const;
  double AttendWork(uint64_t begin, uint64_t end) const;
  // The chunk that starts at next_token_; moves on.
  void NextChunk(uint64_t* begin, uint64_t* end);
  void KeepResident();
  // The sequence's facet sees what leaves.
  void LeaveRemote();
  // Sends as many frames of this layer as there is room for. True if all are sent.
  bool StreamOut();
  // One holder of one shard.
  struct Target {
    size_t shard_idx;
    size_t holder_idx;
    uint64_t cursor;  // tokens of this layer before it are sent
  };
  // The next piece of a target's tokens at or after its cursor; empty if none is left, or the holder is lost.
  TokenRange NextPiece(const Target& target) const;

  const PrefillInput input_;
  Device* const device_;
  SpillSender* const spill_;
  std::unique_ptr<Prefill> prefill_;  // null before the first unit
  Phase phase_ = Phase::kBegin;
  uint32_t layer_ = 0;
  uint64_t next_token_ = 0;
  uint64_t units_done_ = 0;
  double work_left_ = 0;
  std::vector<Target> targets_;
  size_t next_target_ = 0;
  std::unique_ptr<const SpillSections> sections_;  // of this layer; null: none
  std::span<const float> logits_;
};

}  // namespace tributary

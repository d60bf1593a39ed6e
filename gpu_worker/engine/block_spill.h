// One block of tokens on its way from a sequence's window to its shards: which frame is next, and how it is made.
//
// Thread-compatible, as everything of a sequence.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "attention/token_range.h"
#include "gpu_worker/device/facet.h"
#include "gpu_worker/device/layer_map.h"

namespace tributary {

class Device;       // gpu_worker/device/device.h
class SpillSender;  // gpu_worker/spill/spill.h
struct Sequence;    // gpu_worker/engine/sequence.h

// Frames go layer by layer, shard by shard, holder by holder, and by tokens where a block is too big for one frame.
struct BlockSpill {
  TokenRange block;
  uint32_t layer = 0;     // of the next frame: its number in shards
  size_t shard_idx = 0;   // of the next frame
  size_t holder_idx = 0;  // of the next frame
  uint64_t token = 0;     // of the next frame; before the block's begin: the block's begin
  bool all_sent = false;
  std::unique_ptr<const SpillSections> sections;  // what its frames carry for the policy; null: nothing
};

// The block begins to leave the window. Between steps.
BlockSpill BeginBlockSpill(const Sequence& sequence, TokenRange block);
// Sends the next frames of sequence.spill, of about `frame_bytes` at most, as far as there is room.
// Returns true if anything was sent. REQUIRES: sequence.spill.
bool PumpSpill(Sequence& sequence, const LayerMap& layers, Device* device, SpillSender* sender, uint32_t frame_bytes);

}  // namespace tributary

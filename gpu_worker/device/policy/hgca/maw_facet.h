// What HGCA's device facet is on every device: the moving average of attention weights (MAW, policy/hgca/maw.h) of each
// resident slot, by layer and KV head, and what a leaving block carries of it.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "gpu_worker/device/facet.h"
#include "policy/hgca/maw_update.h"

namespace tributary {

// Every step averages the softmax weights of all slots that it attends over, over these slots alone. The slot that a
// row appends to starts anew, as do slots that a prefill fills. Of rows of one sequence in one step, successive tokens
// of it, only the last averages.
class MawReader {
 public:
  virtual ~MawReader() = default;

  // The MAW of some slots of all layers as the last step left it, f32 [layer][kv_head][slot]; NaN for a slot that was
  // filled and that no step has attended over since. Between steps; done on return: unlike K and V, the MAW of a slot
  // changes with every step, and what is read may not depend on when a copy gets its turn.
  virtual void ReadMaw(SlotRange slots, std::span<float> maw) = 0;
};

// Resident memory, in this order: the averages, f32 [layer][kv_head][capacity_tokens], and a scratch for one layer's
// scores, f32 [q_head][capacity_tokens] (which the host device leaves alone).
std::vector<PolicyBytes> MawParts(const FacetSpec& spec);
MawParams MawParamsOf(const FacetSpec& spec);

// A block's section (policy/hgca/spill_section.h). Null, no section: no step has been, or none has attended over some
// token yet; the node judges those itself, as what prefill sends.
std::unique_ptr<const SpillSections> ReadBlockMaw(const LeavingBlock& block, uint32_t num_layers, uint32_t num_kv_heads,
                                                  MawReader* reader);

}  // namespace tributary

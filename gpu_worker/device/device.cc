#include "gpu_worker/device/device.h"

#include "gpu_worker/device/facet.h"

namespace tributary {

std::unique_ptr<const SpillSections> Device::PrefillLeave(uint32_t layer, ResidentId id, TokenRange tokens) {
  return nullptr;
}

}  // namespace tributary

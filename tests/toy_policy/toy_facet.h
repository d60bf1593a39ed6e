// The toy policy's seat on the host device.
#pragma once

#include "gpu_worker/device/host/policy/host_facet.h"

namespace tributary::toy {

HostSeat ToyHostSeat();

}  // namespace tributary::toy

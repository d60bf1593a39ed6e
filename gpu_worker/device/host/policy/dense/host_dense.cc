// A dense sequence keeps nothing on the host device beside its KV.
#include "gpu_worker/device/host/policy/host_facet.h"

namespace tributary {

HostSeat DenseHostSeat() { return {}; }

}  // namespace tributary

// `delta` keeps nothing on the host device beside the KV: the nodes find the tokens by themselves.
#include "gpu_worker/device/host/policy/host_facet.h"

namespace tributary {

HostSeat DeltaHostSeat() { return {}; }

}  // namespace tributary

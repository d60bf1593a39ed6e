// The toy policy's places in the tables.
#include "cpu_attention_service/policy/shard_policy_seats.h"
#include "gpu_worker/device/host/policy/host_facet.h"
#include "tests/toy_policy/toy_facet.h"
#include "tests/toy_policy/toy_rules.h"
#include "tests/toy_policy/toy_shard.h"

namespace tributary::toy {

void AddToyPolicy() {
  AddPolicy(ToyRules());
  ShardPolicySeats().Add("toy", &ToyShard::Open);
  HostSeats().Add("toy", ToyHostSeat());
}

}  // namespace tributary::toy

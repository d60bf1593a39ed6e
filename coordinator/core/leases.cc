#include "coordinator/core/leases.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tributary {

void Leases::BeginTurn(SequenceId sequence, const std::string& request_id, const KeepOptions& asked) {
  if (!asked.asked() && !leases_.contains(sequence)) return;
  Lease& lease = leases_[sequence];
  lease.request_id = request_id;
  lease.asked = asked;
  lease.held = false;
}

bool Leases::asked(SequenceId sequence) const {
  const auto it = leases_.find(sequence);
  return it != leases_.end() && it->second.asked.asked();
}

int64_t Leases::Hold(SequenceId sequence, int64_t now_ns) {
  TRIBUTARY_CHECK(asked(sequence));
  Lease& lease = leases_.at(sequence);
  lease.held = true;
  lease.until_ns = now_ns + lease.asked.lease_ns;
  return lease.asked.lease_ns;
}

bool Leases::End(SequenceId sequence, std::string why) {
  const auto it = leases_.find(sequence);
  if (it == leases_.end()) return false;
  ended_.Add(it->second.request_id, std::move(why));
  leases_.erase(it);
  return true;
}

std::vector<SequenceId> Leases::Expired(int64_t now_ns) const {
  std::vector<std::pair<int64_t, SequenceId>> due;
  for (const auto& [sequence, lease] : leases_) {
    if (lease.held && now_ns >= lease.until_ns) due.emplace_back(lease.until_ns, sequence);
  }
  std::sort(due.begin(), due.end());
  std::vector<SequenceId> expired;
  for (const auto& [until_ns, sequence] : due) expired.push_back(sequence);
  return expired;
}

int64_t Leases::held_until_ns(SequenceId sequence) const {
  const Lease& lease = leases_.at(sequence);
  TRIBUTARY_CHECK(lease.held);
  return lease.until_ns;
}

int64_t Leases::lease_ns(SequenceId sequence) const { return leases_.at(sequence).asked.lease_ns; }

uint32_t Leases::num_asked() const {
  return static_cast<uint32_t>(
      std::count_if(leases_.begin(), leases_.end(), [](const auto& item) { return item.second.asked.asked(); }));
}

}  // namespace tributary

// Which CPU attention nodes one GPU worker could not reach of late, although both are alive: a circuit breaker for each
// pair. Placement avoids a suspect pair until its time is over; then the next request tries it (half open), and a
// failure makes the time twice as long. Pure: time is an argument. Thread-compatible.
#pragma once

#include <algorithm>
#include <cstdint>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "base/clock.h"

namespace tributary {

class PairSuspicion {
 public:
  static constexpr int64_t kFirstNs = 5 * kNsPerS;
  static constexpr int64_t kLongestNs = 60 * kNsPerS;

  void OnFailure(const std::string& node_id, int64_t now_ns) {
    Suspect& suspect = suspects_[node_id];
    suspect.time_ns = suspect.time_ns == 0 ? kFirstNs : std::min(2 * suspect.time_ns, kLongestNs);
    suspect.until_ns = now_ns + suspect.time_ns;
  }
  // A sequence with KV there has its first token, or another process has the node's name.
  void OnSuccess(const std::string& node_id) { suspects_.erase(node_id); }
  bool IsSuspect(const std::string& node_id, int64_t now_ns) const {
    const auto it = suspects_.find(node_id);
    return it != suspects_.end() && now_ns < it->second.until_ns;
  }

 private:
  struct Suspect {
    int64_t time_ns = 0;
    int64_t until_ns = 0;
  };
  absl::flat_hash_map<std::string, Suspect> suspects_;
};

}  // namespace tributary

// Which sequences are kept after their answer, or will be, and until when; and why earlier ones are not kept any more,
// so that a client that comes late is told.
//
// A sequence has a lease from the first turn that asks for one until End(): over later turns, too, whether they ask
// again or not, since the client counts on its name. What the sequence holds meanwhile (memory, shards, a place on a
// worker) is not known here. Pure: time is an argument. Thread-compatible.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "base/ids.h"
#include "cluster/generate_request.h"
#include "coordinator/core/ended_leases.h"

namespace tributary {

class Leases {
 public:
  // A turn begins. Without a lease, one that asks for none changes nothing.
  void BeginTurn(SequenceId sequence, const std::string& request_id, const KeepOptions& asked);
  // The turn that runs or ran last asked to keep the sequence.
  bool asked(SequenceId sequence) const;
  // The turn has ended, and the sequence stays until it is continued or the lease is over. Returns the lease's length.
  // REQUIRES: asked().
  int64_t Hold(SequenceId sequence, int64_t now_ns);
  // False if there was none: nobody counted on it.
  bool End(SequenceId sequence, std::string why);

  // Held ones whose time is over, in the order of their ends.
  std::vector<SequenceId> Expired(int64_t now_ns) const;
  // REQUIRES: held.
  int64_t held_until_ns(SequenceId sequence) const;
  int64_t lease_ns(SequenceId sequence) const;
  // Sequences that are held, or will be when their turn has ended.
  uint32_t num_asked() const;

  // Null if no lease of that name has ended here, or long ago.
  const std::string* WhyEnded(const std::string& request_id) const { return ended_.Find(request_id); }

 private:
  struct Lease {
    std::string request_id;
    KeepOptions asked;
    bool held = false;
    int64_t until_ns = 0;
  };
  std::map<SequenceId, Lease> leases_;
  EndedLeases ended_;
};

}  // namespace tributary

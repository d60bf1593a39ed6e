// The in-process twin of the network: data planes of one process that exchange frames through a
// shared hub, with seeded faults. One seed replays one run, if the callers are deterministic too.
//
// Two ways of use:
//   - single-threaded under a ManualClock: deliveries, faults and their order depend on the seed
//   and the calls alone;
//   - each data plane polled by a thread of its own, under a RealClock: faults of a link still
//   depend only on the seed and
//     on the frames of that link.
//
//   InprocNetwork network(seed, &clock);
//   std::unique_ptr<DataPlane> node = network.Create("node-0");
//   network.SetFaults({.loss = 0.01, .max_delay_ns = kNsPerMs});
//   network.Kill("node-0");
//
// It is less kind than a real network where data_plane.h allows it: a received payload lies at an
// odd address in memory that is freed when the handler returns, frames on the way are lost with
// their link, and a Send() to a dead peer succeeds until the error was reported.
//
// Thread-safe. The network outlives its data planes.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/clock.h"
#include "transport/data_plane.h"

namespace tributary {

// What a link does to each of its frames. Probabilities are in [0, 1]; each frame draws anew.
// Unequal delays reorder frames, unless `ordered`.
struct InprocFaults {
  double loss = 0;
  double duplicate = 0;
  double corrupt = 0;        // changes a run of bits somewhere in the header or the payload
  double disconnect = 0;     // the link breaks: both ends see OnPeerError
  int64_t min_delay_ns = 0;  // by the clock; drawn uniformly from [min, max]
  int64_t max_delay_ns = 0;
  uint32_t max_delay_polls = 0;  // in Poll() calls of the receiver; drawn uniformly from [0, max]
  bool ordered = false;          // no frame overtakes another of the same link
  // Length of the run that a corruption changes, in bits: drawn uniformly from [1, max]. The first and the last bit are
  // flipped, those between by chance. REQUIRES: in [1, 64].
  uint32_t max_burst_bits = 1;
};

struct InprocOptions {
  // Frames of one data plane that are allocated, or on their way and not yet handled by the
  // receiver.
  uint32_t max_frames_in_flight = 1024;
};

struct InprocStats {
  uint64_t delivered = 0;
  uint64_t lost = 0;  // by faults, dead receivers and broken links
  uint64_t duplicated = 0;
  uint64_t corrupted = 0;
  uint64_t corrupted_headers = 0;  // of these, frames of whose header a bit changed
  uint64_t disconnected = 0;

  friend bool operator==(const InprocStats&, const InprocStats&) = default;
};

class InprocNetwork {
 public:
  InprocNetwork(uint64_t seed, const Clock* clock);
  ~InprocNetwork();
  InprocNetwork(const InprocNetwork&) = delete;
  InprocNetwork& operator=(const InprocNetwork&) = delete;

  // A data plane whose info().address is `address`. REQUIRES: no live data plane has it. A killed
  // one's may be used again: the new one is another process to all peers of the old.
  std::unique_ptr<DataPlane> Create(std::string_view address, const InprocOptions& options = {});

  // Sets the faults of every link, those of data planes created later included; forgets SetLinkFaults.
  void SetFaults(const InprocFaults& faults);
  // Sets the faults for frames from one address to another.
  void SetLinkFaults(std::string_view from, std::string_view to, const InprocFaults& faults);

  // Works as kill -9: the data plane neither sends nor receives from now on, and its peers see OnPeerError.
  void Kill(std::string_view address);
  // Works as SIGSTOP: it handles nothing and what it sends stays with it, while frames to it pile up. Nobody is told.
  void Freeze(std::string_view address);
  void Thaw(std::string_view address);
  // Breaks the link: both ends see OnPeerError and frames on the way are lost. Both may connect
  // again.
  void Cut(std::string_view a, std::string_view b);

  // The earliest time after now at which the clock lets a delayed frame arrive: a simulation
  // advances its clock to it.
  std::optional<int64_t> NextDeliveryNs() const;
  // Frames on their way, held back ones included.
  uint64_t frames_in_transit() const;
  InprocStats stats() const;

 private:
  friend class InprocDataPlane;
  struct Hub;
  std::shared_ptr<Hub> hub_;
};

}  // namespace tributary

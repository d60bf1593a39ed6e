// A layer's seats for attention policies: one factory per policy, found by the policy's name. The layer fills the table
// from policy/policies.def; a test binary adds the policies that it brings along.
#pragma once

#include <initializer_list>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/check.h"

namespace tributary {

// Factory: copyable; for most layers a pointer to a function. Thread-compatible: whoever adds does so before other
// threads look anything up, as a test's main() or a static initialiser does.
template <typename Factory>
class SeatTable {
 public:
  struct Seat {
    std::string name;
    Factory factory;
  };

  SeatTable(std::initializer_list<Seat> built_in) {
    for (const Seat& seat : built_in) Add(seat.name, seat.factory);
  }

  // REQUIRES (checked): no policy of this name has a seat here.
  void Add(std::string_view name, Factory factory) {
    TRIBUTARY_CHECK(Find(name) == nullptr);
    seats_.push_back({std::string(name), std::move(factory)});
  }

  // Null where there is none. Valid until the next Add(). Compares a few short strings: for the beginning of a
  // sequence, not for each of its steps.
  const Factory* Find(std::string_view name) const {
    for (const Seat& seat : seats_) {
      if (seat.name == name) return &seat.factory;
    }
    return nullptr;
  }

  // They stand in the order in which they were added.
  const std::vector<Seat>& seats() const { return seats_; }

 private:
  std::vector<Seat> seats_;
};

}  // namespace tributary

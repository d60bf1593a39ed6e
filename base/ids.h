// Strong integer ids: a ShardId cannot be passed where a SequenceId is meant.
#pragma once

#include <cstdint>
#include <functional>
#include <ostream>

namespace tributary {

template <typename Tag, typename Int>
struct StrongId {
  Int value = 0;

  constexpr StrongId() = default;
  constexpr explicit StrongId(Int v) : value(v) {}
  friend constexpr auto operator<=>(StrongId, StrongId) = default;
  friend std::ostream& operator<<(std::ostream& out, StrongId id) { return out << id.value; }

  template <typename H>
  friend H AbslHashValue(H h, StrongId id) {
    return H::combine(std::move(h), id.value);
  }
};

using SequenceId = StrongId<struct SequenceIdTag, uint64_t>;
using ShardId = StrongId<struct ShardIdTag, uint64_t>;
using StepId = StrongId<struct StepIdTag, uint64_t>;
// Version of a placement: a frame or command that names an older one is refused.
using Epoch = StrongId<struct EpochTag, uint64_t>;
// One authenticated pairing of a GPU worker and a CPU attention node; dies with either process.
using SessionId = StrongId<struct SessionIdTag, uint64_t>;

}  // namespace tributary

template <typename Tag, typename Int>
struct std::hash<tributary::StrongId<Tag, Int>> {
  size_t operator()(tributary::StrongId<Tag, Int> id) const { return std::hash<Int>()(id.value); }
};

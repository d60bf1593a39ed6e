// One anonymous mapping for a process's KV, made at start; it never grows. Not in core dumps.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string_view>

#include "absl/status/statusor.h"

namespace tributary {

// The pages behind an arena.
enum class PageKind {
  kSmall,            // asked for, or the host's transparent huge pages are off
  kTransparentHuge,  // asked for by madvise; the kernel gives them where it can
  kHugeTlb,          // reserved huge pages, all of them
};
std::string_view PageKindName(PageKind kind);  // "small", "transparent_huge", "hugetlb"

struct ArenaOptions {
  size_t bytes = 0;
  bool try_hugetlb = false;  // falls back to transparent huge pages when too few are reserved on the host
  // Off: small pages, even where the host would give huge ones.
  bool transparent_huge = true;
  bool prefault = false;  // touch every page now, so that the first tokens do not pay for it
  // Pages come from this NUMA node alone; -1: from wherever the thread that first touches them runs.
  // NOT_FOUND if the host has no such node. Where the kernel forbids binding (some containers), the
  // arena is made all the same and bound_to_node() is -1.
  int numa_node = -1;
};

// Move-only. Thread-compatible.
class Arena {
 public:
  // INVALID_ARGUMENT for 0 bytes; RESOURCE_EXHAUSTED, with the needed and the available bytes, when
  // the host (or the cgroup) has less memory than asked for.
  static absl::StatusOr<Arena> Create(const ArenaOptions& options);
  ~Arena();
  Arena(Arena&& other) noexcept;
  Arena& operator=(Arena&& other) noexcept;

  // Zeroed, aligned to kArenaAlignmentBytes, exactly the bytes asked for.
  std::span<std::byte> memory() const { return memory_; }
  PageKind page_kind() const { return page_kind_; }
  int bound_to_node() const { return bound_to_node_; }

 private:
  Arena() = default;
  void AdvisePages(const ArenaOptions& options);
  void* mapping_ = nullptr;
  size_t mapping_bytes_ = 0;
  std::span<std::byte> memory_;
  PageKind page_kind_ = PageKind::kSmall;
  int bound_to_node_ = -1;
};

inline constexpr size_t kArenaAlignmentBytes = 2u << 20;

// Memory that a new process could still get: MemAvailable, or what the cgroup leaves if that is
// less. 0 if unknown.
uint64_t AvailableMemoryBytes();

}  // namespace tributary

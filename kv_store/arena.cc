#include "kv_store/arena.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <fstream>
#include <optional>
#include <string>
#include <utility>

#include "base/numa.h"
#include "fmt/format.h"

namespace tributary {
namespace {

size_t RoundUp(size_t bytes, size_t multiple) { return (bytes + multiple - 1) / multiple * multiple; }

// The first number of a file like memory.max; nothing if it says "max" or cannot be read.
std::optional<uint64_t> ReadNumber(const char* path) {
  std::ifstream file(path);
  uint64_t value = 0;
  if (file >> value) return value;
  return std::nullopt;
}

std::optional<uint64_t> ReadMemAvailableBytes() {
  std::ifstream file("/proc/meminfo");
  std::string key;
  while (file >> key) {
    uint64_t kib = 0;
    if (key == "MemAvailable:" && file >> kib) return kib * 1024;
    file.ignore(256, '\n');
  }
  return std::nullopt;
}

bool TransparentHugePagesAllowed() {
  std::ifstream file("/sys/kernel/mm/transparent_hugepage/enabled");
  std::string line;
  return std::getline(file, line) && line.find("[never]") == std::string::npos;
}

// The mapping with the flags, or nullptr with errno set.
void* Map(size_t bytes, int extra_flags) {
  void* memory = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | extra_flags, -1, 0);
  return memory == MAP_FAILED ? nullptr : memory;
}

void TouchPages(std::span<std::byte> memory) {
#ifdef MADV_POPULATE_WRITE
  if (madvise(memory.data(), memory.size(), MADV_POPULATE_WRITE) == 0) return;
#endif
  const size_t page_bytes = static_cast<size_t>(sysconf(_SC_PAGESIZE));
  for (size_t offset = 0; offset < memory.size(); offset += page_bytes) {
    *static_cast<volatile std::byte*>(memory.data() + offset) = std::byte{0};
  }
}

}  // namespace

std::string_view PageKindName(PageKind kind) {
  switch (kind) {
    case PageKind::kSmall:
      return "small";
    case PageKind::kTransparentHuge:
      return "transparent_huge";
    case PageKind::kHugeTlb:
      return "hugetlb";
  }
  return "unknown";
}

uint64_t AvailableMemoryBytes() {
  uint64_t available = ReadMemAvailableBytes().value_or(0);
  const std::optional<uint64_t> cgroup_max = ReadNumber("/sys/fs/cgroup/memory.max");
  const std::optional<uint64_t> cgroup_used = ReadNumber("/sys/fs/cgroup/memory.current");
  if (cgroup_max.has_value() && cgroup_used.has_value()) {
    const uint64_t left = *cgroup_max - std::min(*cgroup_max, *cgroup_used);
    available = available == 0 ? left : std::min(available, left);
  }
  return available;
}

absl::StatusOr<Arena> Arena::Create(const ArenaOptions& options) {
  if (options.bytes == 0) {
    return absl::InvalidArgumentError("arena: 0 bytes asked for; give the KV pool a size");
  }
  if (options.numa_node >= 0 && CpusOfNumaNode(options.numa_node).empty()) {
    return absl::NotFoundError(
        fmt::format("arena: this host has no NUMA node {}; it has {}", options.numa_node, NumNumaNodes()));
  }
  const uint64_t available = AvailableMemoryBytes();
  const auto exhausted = [&](const std::string& why) {
    return absl::ResourceExhaustedError(
        fmt::format("arena: {} bytes needed, {} available{}; make the KV pool smaller or free "
                    "memory on this host",
                    options.bytes, available, why));
  };
  // The kernel overcommits: without this, a pool that does not fit dies later, in the middle of a
  // request.
  if (options.bytes > SIZE_MAX / 2 || (available != 0 && options.bytes > available)) {
    return exhausted("");
  }

  Arena arena;
  if (options.try_hugetlb) {
    arena.mapping_bytes_ = RoundUp(options.bytes, kArenaAlignmentBytes);
    arena.mapping_ = Map(arena.mapping_bytes_, MAP_HUGETLB);
    if (arena.mapping_ != nullptr) arena.page_kind_ = PageKind::kHugeTlb;
  }
  if (arena.mapping_ == nullptr) {
    arena.mapping_bytes_ = options.bytes + kArenaAlignmentBytes;  // room to align
    arena.mapping_ = Map(arena.mapping_bytes_, MAP_NORESERVE);
    if (arena.mapping_ == nullptr) return exhausted(fmt::format(" (mmap: {})", std::strerror(errno)));
  }
  const uintptr_t begin = RoundUp(reinterpret_cast<uintptr_t>(arena.mapping_), kArenaAlignmentBytes);
  arena.memory_ = {reinterpret_cast<std::byte*>(begin), options.bytes};
  arena.AdvisePages(options);
  // Before the first touch: a page that is there does not move.
  if (options.numa_node >= 0 && BindToNumaNode(arena.memory_, options.numa_node)) {
    arena.bound_to_node_ = options.numa_node;
  }
  madvise(arena.mapping_, arena.mapping_bytes_, MADV_DONTDUMP);  // best effort
  if (options.prefault) TouchPages(arena.memory_);
  return arena;
}

void Arena::AdvisePages(const ArenaOptions& options) {
  if (page_kind_ == PageKind::kHugeTlb) return;
  if (!options.transparent_huge) {
    madvise(mapping_, mapping_bytes_,
            MADV_NOHUGEPAGE);  // best effort: a host that has none refuses
  } else if (TransparentHugePagesAllowed() && madvise(mapping_, mapping_bytes_, MADV_HUGEPAGE) == 0) {
    page_kind_ = PageKind::kTransparentHuge;
  }
}

Arena::~Arena() {
  if (mapping_ != nullptr) munmap(mapping_, mapping_bytes_);
}

Arena::Arena(Arena&& other) noexcept { *this = std::move(other); }

Arena& Arena::operator=(Arena&& other) noexcept {
  std::swap(mapping_, other.mapping_);
  std::swap(mapping_bytes_, other.mapping_bytes_);
  std::swap(memory_, other.memory_);
  std::swap(page_kind_, other.page_kind_);
  std::swap(bound_to_node_, other.bound_to_node_);
  return *this;
}

}  // namespace tributary

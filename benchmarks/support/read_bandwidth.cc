#include "benchmarks/support/read_bandwidth.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/status.h"
#include "base/thread_pool.h"

namespace tributary {
namespace {

typedef uint64_t Vector16 __attribute__((vector_size(16)));
typedef uint64_t Vector64 __attribute__((vector_size(64)));

// Eight independent sums of vectors, so that the loops wait for memory and not for an adder.
template <typename Vector>
[[gnu::always_inline]] inline uint64_t SumVectors(const std::byte* memory, size_t bytes) {
  constexpr size_t vector_bytes = sizeof(Vector);
  Vector sums[8] = {};
  for (size_t i = 0; i + 8 * vector_bytes <= bytes; i += 8 * vector_bytes) {
    const auto* from = reinterpret_cast<const Vector*>(memory + i);
    for (size_t j = 0; j < 8; ++j) sums[j] += from[j];
  }
  for (size_t j = 1; j < 8; ++j) sums[0] += sums[j];
  uint64_t sum = 0;
  for (size_t lane = 0; lane < vector_bytes / sizeof(uint64_t); ++lane) sum += sums[0][lane];
  return sum;
}

#if defined(__x86_64__)
__attribute__((target("avx512f"))) uint64_t SumAvx512(const std::byte* memory, size_t bytes) {
  return SumVectors<Vector64>(memory, bytes);
}
#endif

}  // namespace

uint64_t SumBytes(const std::byte* memory, size_t bytes) {
#if defined(__x86_64__)
  static const bool has_avx512 = __builtin_cpu_supports("avx512f");
  if (has_avx512) return SumAvx512(memory, bytes);
#endif
  return SumVectors<Vector16>(memory, bytes);
}

ReadCeiling::ReadCeiling(SlicePool* pool, std::span<std::byte> region) : pool_(pool), region_(region) {
  const size_t num_threads = static_cast<size_t>(pool->num_threads());
  // An odd number of 4 KiB pages per thread: parts at a power-of-two distance would share cache sets.
  part_bytes_ = region_.size() / num_threads / 8192 * 8192 - 4096;
  sums_.resize(num_threads);
  pool_->Run([&](int t) {
    const size_t i = static_cast<size_t>(t);
    std::memset(region_.data() + i * part_bytes_, 1, part_bytes_);
  });
}

absl::StatusOr<ReadCeiling> ReadCeiling::Create(SlicePool* pool, size_t region_bytes) {
  TRIBUTARY_ASSIGN_OR_RETURN(Arena arena, Arena::Create({.bytes = region_bytes}));
  ReadCeiling ceiling(pool, arena.memory());
  ceiling.arena_ = std::move(arena);
  return ceiling;
}

SliceTime ReadCeiling::RunSlice(size_t bytes_per_thread, uint64_t* bytes_read) {
  const size_t bytes = std::clamp<size_t>(bytes_per_thread / 512 * 512, 512, part_bytes_);
  if (offset_bytes_ + bytes > part_bytes_) offset_bytes_ = 0;
  const SliceTime time = pool_->Run([&](int t) {
    const size_t i = static_cast<size_t>(t);
    sums_[i] += SumBytes(region_.data() + i * part_bytes_ + offset_bytes_, bytes);
  });
  offset_bytes_ += bytes;
  *bytes_read = uint64_t{bytes} * static_cast<uint64_t>(pool_->num_threads());
  return time;
}

double ReadCeiling::MeasureGbPerS(int rounds) {
  std::vector<double> quiet;
  std::vector<double> all;
  for (int round = 0; round < rounds; ++round) {
    uint64_t bytes = 0;
    const SliceTime time = RunSlice(16u << 20, &bytes);
    all.push_back(static_cast<double>(bytes) / static_cast<double>(time.ns));
    if (time.quiet) quiet.push_back(all.back());
  }
  std::vector<double>& rates = quiet.size() >= 5 ? quiet : all;
  std::nth_element(rates.begin(), rates.begin() + static_cast<ptrdiff_t>(rates.size() / 2), rates.end());
  return rates[rates.size() / 2];
}

double MeasureReadBandwidthGbPerS(int num_threads) {
  cpu_set_t before;  // the pool pins the caller
  pthread_getaffinity_np(pthread_self(), sizeof(before), &before);
  double gb_per_s = 0;
  {
    SlicePool pool(num_threads, AllowedCpus());
    auto ceiling = ReadCeiling::Create(&pool, static_cast<size_t>(num_threads) * (256u << 20));
    if (ceiling.ok()) gb_per_s = ceiling->MeasureGbPerS(200);
  }
  pthread_setaffinity_np(pthread_self(), sizeof(before), &before);
  return gb_per_s;
}

}  // namespace tributary

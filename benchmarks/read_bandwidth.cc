#include "benchmarks/read_bandwidth.h"

#include <immintrin.h>
#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/status.h"
#include "base/thread_pool.h"

namespace tributary {
namespace {

// Eight independent sums each, so that the loops wait for memory and not for an adder.
__attribute__((target("avx512f"))) uint64_t SumAvx512(const std::byte* memory, size_t bytes) {
  __m512i sums[8];
  for (__m512i& sum : sums) sum = _mm512_setzero_si512();
  for (size_t i = 0; i + 512 <= bytes; i += 512) {
    for (size_t j = 0; j < 8; ++j) {
      sums[j] = _mm512_add_epi64(sums[j], _mm512_load_si512(memory + i + 64 * j));
    }
  }
  for (size_t j = 1; j < 8; ++j) sums[0] = _mm512_add_epi64(sums[0], sums[j]);
  alignas(64) uint64_t lanes[8];
  _mm512_store_si512(lanes, sums[0]);
  uint64_t sum = 0;
  for (uint64_t lane : lanes) sum += lane;
  return sum;
}

uint64_t SumPlain(const std::byte* memory, size_t bytes) {
  __m128i sums[8];
  for (__m128i& sum : sums) sum = _mm_setzero_si128();
  for (size_t i = 0; i + 128 <= bytes; i += 128) {
    for (size_t j = 0; j < 8; ++j) {
      const auto* from = reinterpret_cast<const __m128i*>(memory + i + 16 * j);
      sums[j] = _mm_add_epi64(sums[j], _mm_load_si128(from));
    }
  }
  for (size_t j = 1; j < 8; ++j) sums[0] = _mm_add_epi64(sums[0], sums[j]);
  uint64_t lanes[2];
  std::memcpy(lanes, &sums[0], sizeof(lanes));
  return lanes[0] + lanes[1];
}

}  // namespace

uint64_t SumBytes(const std::byte* memory, size_t bytes) {
  static const bool has_avx512 = __builtin_cpu_supports("avx512f");
  return has_avx512 ? SumAvx512(memory, bytes) : SumPlain(memory, bytes);
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

// The items that one thread of a step has still to do. Its owner takes them from the front, in the order of memory;
// threads that have run out take from the back.
#pragma once

#include <atomic>
#include <cstdint>

namespace tributary {

// Thread-safe, lock-free; Set() only while nobody takes. On a cache line of its own.
class alignas(64) ItemRange {
 public:
  void Set(uint32_t begin, uint32_t end) { range_.store(Pack(begin, end), std::memory_order_relaxed); }
  uint32_t size() const {
    const uint64_t range = range_.load(std::memory_order_relaxed);
    return End(range) - Begin(range);
  }
  // False if there is none left.
  bool TakeFirst(uint32_t* item) {
    uint64_t range = range_.load(std::memory_order_relaxed);
    do {
      if (Begin(range) == End(range)) return false;
      *item = Begin(range);
    } while (!range_.compare_exchange_weak(range, Pack(*item + 1, End(range)), std::memory_order_relaxed));
    return true;
  }
  bool TakeLast(uint32_t* item) {
    uint64_t range = range_.load(std::memory_order_relaxed);
    do {
      if (Begin(range) == End(range)) return false;
      *item = End(range) - 1;
    } while (!range_.compare_exchange_weak(range, Pack(Begin(range), *item), std::memory_order_relaxed));
    return true;
  }

 private:
  static uint64_t Pack(uint32_t begin, uint32_t end) { return uint64_t{begin} << 32 | end; }
  static uint32_t Begin(uint64_t range) { return static_cast<uint32_t>(range >> 32); }
  static uint32_t End(uint64_t range) { return static_cast<uint32_t>(range); }

  std::atomic<uint64_t> range_{0};  // both ends in one word, so that taking one is one exchange
};

}  // namespace tributary

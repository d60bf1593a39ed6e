// Pinned threads that run short slices of work and say which slices count.
//
// On a shared machine a thread loses its core now and then, and a slice in which that happened measures the neighbour.
// The threads spin between slices, so each of them should get all of its core's time all the time; a slice is `quiet`
// if each of them did, by its CPU clock against the wall clock.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <thread>
#include <vector>

namespace tributary {

struct SliceTime {
  int64_t ns = 0;
  bool quiet = false;  // each thread had >= 98.5 % of its core
};

// The caller is thread 0. Thread-compatible.
class SlicePool {
 public:
  // Thread i, the caller as thread 0 among them, is pinned to cpus[i]. REQUIRES: num_threads <= cpus.size().
  SlicePool(int num_threads, const std::vector<int>& cpus);
  ~SlicePool();
  SlicePool(const SlicePool&) = delete;
  SlicePool& operator=(const SlicePool&) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }
  // False where the kernel counts CPU time in ticks too coarse for slices (some sandboxes): then every slice is quiet.
  bool tells_quiet() const { return tells_quiet_; }

  // Calls work(thread_idx) once per thread; the time is from the first start to the last end.
  SliceTime Run(const std::function<void(int thread_idx)>& work);

 private:
  struct Stamp {
    int64_t wall_ns = 0;
    int64_t cpu_ns = 0;
  };
  void ThreadMain(int thread_idx, int cpu);
  std::vector<Stamp> Stamps() const;
  bool MeasureClock() const;

  std::vector<std::thread> threads_;
  std::vector<clockid_t> cpu_clocks_;
  const std::function<void(int)>* work_ = nullptr;
  alignas(64) std::atomic<uint64_t> generation_{0};
  alignas(64) std::atomic<int> running_{0};
  std::atomic<bool> stopping_{false};
  bool tells_quiet_ = true;
};

}  // namespace tributary

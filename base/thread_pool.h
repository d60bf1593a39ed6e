// A fixed set of threads for fork-join work in which it never affects a result who does an item.
#pragma once

#include <atomic>
#include <cstddef>
#include <functional>
#include <thread>
#include <vector>

#include "base/mutex.h"

namespace tributary {

// The caller of Run() is thread 0, so a pool of 1 has no thread of its own. Between runs the others spin for `spin_ns`
// and then sleep on a condition variable. Thread-compatible: one Run() at a time.
class ThreadPool {
 public:
  // `cpus`: cores to pin to, thread i on cpus[i % size]; empty = no pinning. Thread 0 is never pinned here.
  explicit ThreadPool(int num_threads, std::vector<int> cpus = {}, int64_t spin_ns = 20'000);
  ~ThreadPool();
  ThreadPool(const ThreadPool&) = delete;
  ThreadPool& operator=(const ThreadPool&) = delete;

  int num_threads() const { return static_cast<int>(threads_.size()) + 1; }

  // Calls work(thread_idx) once per thread and returns when all have returned.
  void Run(const std::function<void(int thread_idx)>& work);

  // Calls work(0), and work(i) on those other threads that are awake before work(0) returns; returns when all calls
  // have returned. For work that any subset of the threads completes (they take items from a common store): the caller
  // never waits for a thread that has not begun, as one may that waits for a core.
  void RunWithHelpers(const std::function<void(int thread_idx)>& work);

  // Calls work(i) for i in [0, count), in contiguous static ranges, one per thread.
  void ParallelFor(size_t count, const std::function<void(size_t i)>& work);

 private:
  void ThreadMain(int thread_idx, int cpu);
  void Post(const std::function<void(int)>& work);
  bool WaitForRun(uint64_t last_run);
  bool Join(uint64_t* last_run);

  const int64_t spin_ns_;
  Mutex mutex_;  // of the sleep alone: all that the threads share is atomic
  CondVar wake_;
  // One word, so that joining a run is one exchange: number of the run | open: threads may join | threads in it.
  static constexpr int kRunShift = 33;
  static constexpr uint64_t kOpen = uint64_t{1} << 32;
  static constexpr uint64_t kThreadsMask = kOpen - 1;
  std::atomic<uint64_t> admission_{0};
  std::atomic<bool> stopping_{false};
  const std::function<void(int)>* work_ = nullptr;
  std::vector<std::thread> threads_;
};

// Keeps the calling thread on one core. False if the kernel refuses (a cpuset may forbid the core).
bool PinThisThread(int cpu);

// Cores this process may run on (its affinity mask), in ascending order.
std::vector<int> AllowedCpus();

}  // namespace tributary

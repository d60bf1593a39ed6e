// A fixed set of threads for fork-join work with a static partition: which thread does an item never affects a result.
#pragma once

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <functional>
#include <mutex>
#include <thread>
#include <vector>

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

  // Calls work(i) for i in [0, count), in contiguous static ranges, one per thread.
  void ParallelFor(size_t count, const std::function<void(size_t i)>& work);

 private:
  void ThreadMain(int thread_idx, int cpu);
  bool WaitForRun(uint64_t last_run);

  const int64_t spin_ns_;
  std::mutex mutex_;
  std::condition_variable wake_;
  std::atomic<uint64_t> run_count_{0};
  std::atomic<int> pending_{0};
  std::atomic<bool> stopping_{false};
  const std::function<void(int)>* work_ = nullptr;
  std::vector<std::thread> threads_;
};

// Keeps the calling thread on one core. False if the kernel refuses (a cpuset may forbid the core).
bool PinThisThread(int cpu);

// Cores this process may run on (its affinity mask), in ascending order.
std::vector<int> AllowedCpus();

}  // namespace tributary

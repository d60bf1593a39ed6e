#include "base/thread_pool.h"

#include <pthread.h>
#include <sched.h>

#include <algorithm>
#include <chrono>

#include "base/check.h"
#include "base/cpu_relax.h"

namespace tributary {
namespace {

int64_t NowNs() { return std::chrono::steady_clock::now().time_since_epoch() / std::chrono::nanoseconds(1); }

// Spins on `done`, first hot, then giving the core away: on an oversubscribed host the one we wait for may need it.
template <typename Done>
bool SpinUntil(const Done& done, int64_t spin_ns) {
  const int64_t start_ns = NowNs();
  for (int i = 0;; ++i) {
    if (done()) return true;
    if (i % 64 != 63) {
      CpuRelax();
      continue;
    }
    if (NowNs() - start_ns > spin_ns) return false;
    sched_yield();
  }
}

}  // namespace

std::vector<int> AllowedCpus() {
  cpu_set_t set;
  CPU_ZERO(&set);
  std::vector<int> cpus;
  if (sched_getaffinity(0, sizeof(set), &set) != 0) return cpus;
  for (int cpu = 0; cpu < CPU_SETSIZE; ++cpu) {
    if (CPU_ISSET(cpu, &set)) cpus.push_back(cpu);
  }
  return cpus;
}

bool PinThisThread(int cpu) {
  if (cpu < 0 || cpu >= CPU_SETSIZE) return false;
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(static_cast<size_t>(cpu), &set);
  return pthread_setaffinity_np(pthread_self(), sizeof(set), &set) == 0;
}

ThreadPool::ThreadPool(int num_threads, std::vector<int> cpus, int64_t spin_ns) : spin_ns_(spin_ns) {
  TRIBUTARY_CHECK_GE(num_threads, 1);
  for (int i = 1; i < num_threads; ++i) {
    const int cpu = cpus.empty() ? -1 : cpus[static_cast<size_t>(i) % cpus.size()];
    threads_.emplace_back([this, i, cpu] { ThreadMain(i, cpu); });
  }
}

ThreadPool::~ThreadPool() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
  }
  wake_.NotifyAll();
  for (std::thread& thread : threads_) thread.join();
}

// REQUIRES: no thread is in a run.
void ThreadPool::Post(const std::function<void(int)>& work) {
  {
    MutexLock lock(&mutex_);
    work_ = &work;
    const uint64_t last_run = admission_.load(std::memory_order_relaxed) >> kRunShift;
    admission_.store(((last_run + 1) << kRunShift) | kOpen, std::memory_order_release);
  }
  wake_.NotifyAll();
}

void ThreadPool::Run(const std::function<void(int)>& work) {
  std::atomic<size_t> num_begun{0};
  const auto all_begun = [&] { return num_begun.load(std::memory_order_acquire) == threads_.size(); };
  const auto counted = [&](int thread_idx) {
    if (thread_idx != 0) num_begun.fetch_add(1, std::memory_order_release);
    work(thread_idx);
    while (thread_idx == 0 && !SpinUntil(all_begun, 1'000'000)) {  // keeps the run open
    }
  };
  RunWithHelpers(std::ref(counted));
}

void ThreadPool::RunWithHelpers(const std::function<void(int)>& work) {
  if (threads_.empty()) {
    work(0);
    return;
  }
  Post(work);
  work(0);
  admission_.fetch_sub(kOpen, std::memory_order_acq_rel);
  const auto all_done = [&] { return (admission_.load(std::memory_order_acquire) & kThreadsMask) == 0; };
  while (!SpinUntil(all_done, 1'000'000)) {
  }
}

void ThreadPool::ParallelFor(size_t count, const std::function<void(size_t)>& work) {
  const size_t threads = static_cast<size_t>(num_threads());
  Run([&](int thread_idx) {
    const size_t begin = count * static_cast<size_t>(thread_idx) / threads;
    const size_t end = count * (static_cast<size_t>(thread_idx) + 1) / threads;
    for (size_t i = begin; i < end; ++i) work(i);
  });
}

bool ThreadPool::WaitForRun(uint64_t last_run) {
  const auto ready = [&] {
    return admission_.load(std::memory_order_acquire) >> kRunShift != last_run || stopping_.load();
  };
  if (!SpinUntil(ready, spin_ns_)) {
    MutexLock lock(&mutex_);
    while (!ready()) wake_.Wait(&mutex_);
  }
  return !stopping_.load();
}

// Counts the thread in, unless the run is over. `last_run` becomes the run that was joined or missed.
bool ThreadPool::Join(uint64_t* last_run) {
  uint64_t admission = admission_.load(std::memory_order_acquire);
  do {
    *last_run = admission >> kRunShift;
    if ((admission & kOpen) == 0) return false;
  } while (!admission_.compare_exchange_weak(admission, admission + 1, std::memory_order_acq_rel));
  return true;
}

void ThreadPool::ThreadMain(int thread_idx, int cpu) {
  if (cpu >= 0) PinThisThread(cpu);  // best effort
  uint64_t last_run = 0;
  while (WaitForRun(last_run)) {
    if (!Join(&last_run)) continue;
    (*work_)(thread_idx);
    admission_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace tributary

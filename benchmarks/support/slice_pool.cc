#include "benchmarks/support/slice_pool.h"

#include <pthread.h>
#include <time.h>

#include "base/check.h"
#include "base/cpu_relax.h"
#include "base/thread_pool.h"

namespace tributary {
namespace {

constexpr double kQuietShare = 0.985;

int64_t ReadNs(clockid_t clock) {
  timespec time{};
  clock_gettime(clock, &time);
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

}  // namespace

SlicePool::SlicePool(int num_threads, const std::vector<int>& cpus) {
  TRIBUTARY_CHECK_GE(num_threads, 1);
  TRIBUTARY_CHECK_LE(static_cast<size_t>(num_threads), cpus.size());
  PinThisThread(cpus[0]);  // best effort, here and below: a sandbox may forbid it
  cpu_clocks_.resize(static_cast<size_t>(num_threads));
  pthread_getcpuclockid(pthread_self(), &cpu_clocks_[0]);
  for (int i = 1; i < num_threads; ++i) {
    const int cpu = cpus[static_cast<size_t>(i)];
    threads_.emplace_back([this, i, cpu] { ThreadMain(i, cpu); });
    pthread_getcpuclockid(threads_.back().native_handle(), &cpu_clocks_[static_cast<size_t>(i)]);
  }
  tells_quiet_ = MeasureClock();
}

SlicePool::~SlicePool() {
  stopping_.store(true);
  for (std::thread& thread : threads_) thread.join();
}

bool SlicePool::MeasureClock() const {
  // A clock that is fine enough advances by less than 50 us at a time.
  int64_t largest_step_ns = 0;
  int64_t last_cpu_ns = ReadNs(cpu_clocks_[0]);
  const int64_t end_ns = ReadNs(CLOCK_MONOTONIC) + 3'000'000;
  while (ReadNs(CLOCK_MONOTONIC) < end_ns) {
    const int64_t cpu_ns = ReadNs(cpu_clocks_[0]);
    if (cpu_ns - last_cpu_ns > largest_step_ns) largest_step_ns = cpu_ns - last_cpu_ns;
    last_cpu_ns = cpu_ns;
  }
  return largest_step_ns > 0 && largest_step_ns < 50'000;
}

std::vector<SlicePool::Stamp> SlicePool::Stamps() const {
  std::vector<Stamp> stamps;
  stamps.reserve(cpu_clocks_.size());
  for (clockid_t clock : cpu_clocks_) stamps.push_back({ReadNs(CLOCK_MONOTONIC), ReadNs(clock)});
  return stamps;
}

SliceTime SlicePool::Run(const std::function<void(int)>& work) {
  const std::vector<Stamp> before = tells_quiet_ ? Stamps() : std::vector<Stamp>();
  work_ = &work;
  running_.store(static_cast<int>(threads_.size()), std::memory_order_relaxed);
  SliceTime time;
  const int64_t begin_ns = ReadNs(CLOCK_MONOTONIC);
  generation_.fetch_add(1, std::memory_order_release);
  work(0);
  while (running_.load(std::memory_order_acquire) != 0) CpuRelax();
  time.ns = ReadNs(CLOCK_MONOTONIC) - begin_ns;
  time.quiet = true;
  if (!tells_quiet_) return time;
  const std::vector<Stamp> after = Stamps();
  for (size_t i = 0; i < after.size(); ++i) {
    const double wall_ns = static_cast<double>(after[i].wall_ns - before[i].wall_ns);
    const double cpu_ns = static_cast<double>(after[i].cpu_ns - before[i].cpu_ns);
    if (cpu_ns < kQuietShare * wall_ns) time.quiet = false;
  }
  return time;
}

void SlicePool::ThreadMain(int thread_idx, int cpu) {
  PinThisThread(cpu);
  uint64_t last_generation = 0;
  while (true) {
    while (generation_.load(std::memory_order_acquire) == last_generation) {
      if (stopping_.load(std::memory_order_relaxed)) return;
      CpuRelax();
    }
    ++last_generation;
    (*work_)(thread_idx);
    running_.fetch_sub(1, std::memory_order_release);
  }
}

}  // namespace tributary

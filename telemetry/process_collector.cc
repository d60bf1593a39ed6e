#include "telemetry/process_collector.h"

#include <sys/resource.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <sstream>
#include <string>
#include <system_error>

namespace tributary {
namespace {

double CpuSeconds() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  const auto seconds = [](const timeval& time) {
    return static_cast<double>(time.tv_sec) + static_cast<double>(time.tv_usec) * 1e-6;
  };
  return seconds(usage.ru_utime) + seconds(usage.ru_stime);
}

double ResidentBytes() {
  std::ifstream statm("/proc/self/statm");
  double total_pages = 0, resident_pages = 0;
  statm >> total_pages >> resident_pages;
  return resident_pages * static_cast<double>(sysconf(_SC_PAGESIZE));
}

double OpenFds() {
  double count = 0;
  std::error_code error;
  for (std::filesystem::directory_iterator it("/proc/self/fd", error), end; !error && it != end; it.increment(error)) {
    ++count;
  }
  return count > 0 ? count - 1 : 0;  // without the one that reads the directory
}

// The soft limit: an accept() beyond it fails.
double MaxFds() {
  rlimit limit{};
  getrlimit(RLIMIT_NOFILE, &limit);
  return static_cast<double>(limit.rlim_cur);
}

// Field 22 of /proc/self/stat (ticks since boot) added to the boot time in /proc/stat.
double StartTimeSeconds() {
  std::ifstream stat("/proc/self/stat");
  std::string line;
  std::getline(stat, line);
  std::istringstream fields(line.substr(line.rfind(')') + 1));  // the command's name may hold blanks
  std::string skipped;
  for (int field = 3; field < 22; ++field) fields >> skipped;
  double start_ticks = 0;
  fields >> start_ticks;

  std::ifstream boot("/proc/stat");
  double boot_seconds = 0;
  for (std::string word; boot >> word;) {
    if (word == "btime") {
      boot >> boot_seconds;
      break;
    }
  }
  return boot_seconds + start_ticks / static_cast<double>(sysconf(_SC_CLK_TCK));
}

}  // namespace

void AddProcessMetrics(MetricRegistry& registry) {
  registry.AddSource([start_time = StartTimeSeconds()](std::vector<MetricSample>& samples) {
    samples.push_back({&metrics::kProcessCpuSeconds, {}, CpuSeconds(), {}});
    samples.push_back({&metrics::kProcessResidentMemory, {}, ResidentBytes(), {}});
    samples.push_back({&metrics::kProcessOpenFds, {}, OpenFds(), {}});
    samples.push_back({&metrics::kProcessMaxFds, {}, MaxFds(), {}});
    samples.push_back({&metrics::kProcessStartTime, {}, start_time, {}});
  });
}

}  // namespace tributary

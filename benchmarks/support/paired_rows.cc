#include "benchmarks/support/paired_rows.h"

#include <algorithm>
#include <cstdio>

#include "base/clock.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// Slices before the first that counts: page tables, clocks and branch predictors settle.
constexpr int kWarmUpSlices = 2;
constexpr int kLeastSlices = 3;

void MeasureResident(SlicePool& pool, Workload& workload, const RowOptions& options, RowResult& result) {
  pool.Run([&](int t) { workload.CallResident(t); });
  const SliceTime one_call = pool.Run([&](int t) { workload.CallResident(t); });
  const int calls = static_cast<int>(options.slice_us * 1e3 / static_cast<double>(one_call.ns)) + 1;
  const double steps =
      calls * static_cast<double>(workload.resident_bytes()) / static_cast<double>(workload.step_bytes());
  const auto work = [&](int t) {
    for (int i = 0; i < calls; ++i) workload.CallResident(t);
  };
  int accepted = 0;
  for (int i = 0; i < 4 * options.resident_slices && accepted < options.resident_slices; ++i) {
    const SliceTime time = pool.Run(work);
    if (!time.quiet) continue;
    ++accepted;
    result.resident_us.push_back(static_cast<double>(time.ns) * 1e-3 / steps);
  }
}

// About options.slice_us of the ceiling; less for work so slow that its own slices would be much longer.
uint64_t ChooseSlice(SlicePool& pool, ReadCeiling& ceiling, Workload& workload, const RowOptions& options) {
  const double bytes_per_us = ceiling.MeasureGbPerS(9) * 1e3;
  const double bytes = options.slice_us * bytes_per_us / pool.num_threads();
  workload.SetSlice(static_cast<uint64_t>(bytes));
  int64_t fastest_ns = INT64_MAX;
  for (int i = 0; i < kWarmUpSlices; ++i) {
    fastest_ns = std::min(fastest_ns, pool.Run([&](int t) { workload.RunSlice(t); }).ns);
  }
  const double times_too_long = static_cast<double>(fastest_ns) * 1e-3 / (3 * options.slice_us);
  if (times_too_long > 1) workload.SetSlice(static_cast<uint64_t>(bytes / times_too_long));
  return static_cast<uint64_t>(bytes);
}

std::string Cell(const std::vector<double>& values, const char* format) {
  if (values.empty()) return "-";
  return fmt::format(fmt::runtime(format), QuartilesOf(values).median);
}

}  // namespace

Quartiles QuartilesOf(std::vector<double> values) {
  if (values.empty()) return {};
  std::sort(values.begin(), values.end());
  const auto at = [&](double share) {
    const double place = share * static_cast<double>(values.size() - 1);
    const size_t i = static_cast<size_t>(place);
    const size_t next = std::min(i + 1, values.size() - 1);
    return values[i] + (place - static_cast<double>(i)) * (values[next] - values[i]);
  };
  return {at(0.25), at(0.5), at(0.75)};
}

double RowResult::gb_per_s() const {
  const double median_us = QuartilesOf(us).median;
  return median_us == 0 ? 0 : static_cast<double>(bytes) * 1e-3 / median_us;
}

double RowResult::tokens_per_ceiling_byte() const {
  return bytes == 0 ? 0 : QuartilesOf(ratios).median * static_cast<double>(tokens) / static_cast<double>(bytes);
}

void MeasureRow(SlicePool& pool, ReadCeiling& ceiling, Workload& workload, const RowOptions& options,
                RowResult& result) {
  const RealClock clock;
  const uint64_t bytes_per_thread = ChooseSlice(pool, ceiling, workload, options);
  result.bytes = workload.step_bytes();
  result.tokens = workload.step_tokens();
  result.filtered = pool.tells_quiet();
  const double steps = static_cast<double>(workload.slice_bytes()) / static_cast<double>(workload.step_bytes());
  const auto work = [&](int t) { workload.RunSlice(t); };
  const int64_t end_ns = clock.NowNs() + static_cast<int64_t>(options.max_seconds * static_cast<double>(kNsPerS));
  std::vector<double> ratios;
  for (int i = 0; static_cast<int>(ratios.size()) < options.slices && clock.NowNs() < end_ns; ++i) {
    uint64_t ceiling_bytes = 0;
    const SliceTime read = ceiling.RunSlice(bytes_per_thread, &ceiling_bytes);
    const SliceTime ours = pool.Run(work);
    if (i < kWarmUpSlices) continue;
    ++result.slices_tried;
    if (!read.quiet || !ours.quiet) continue;
    const double ceiling_rate = static_cast<double>(ceiling_bytes) / static_cast<double>(read.ns);
    const double rate = static_cast<double>(workload.slice_bytes()) / static_cast<double>(ours.ns);
    result.us.push_back(static_cast<double>(ours.ns) * 1e-3 / steps);
    result.ceiling_gb_per_s.push_back(ceiling_rate);
    ratios.push_back(rate / ceiling_rate);
  }
  if (static_cast<int>(ratios.size()) >= kLeastSlices) {
    result.run_medians.push_back(QuartilesOf(ratios).median);
  }
  result.ratios.insert(result.ratios.end(), ratios.begin(), ratios.end());
  MeasureResident(pool, workload, options, result);
}

nlohmann::json ToJson(const RowResult& result) {
  const RowKey& key = result.key;
  const auto triple = [](const std::vector<double>& values) {
    const Quartiles quartiles = QuartilesOf(values);
    return nlohmann::json{quartiles.low, quartiles.median, quartiles.high};
  };
  return {{"name", key.name},
          {"isa", key.isa},
          {"dtype_k", key.dtype_k},
          {"dtype_v", key.dtype_v},
          {"path", key.path},
          {"block_tokens", key.block_tokens},
          {"group_size", key.group_size},
          {"head_dim", key.head_dim},
          {"kv_heads", key.kv_heads},
          {"kv_len", key.kv_len},
          {"batch", key.batch},
          {"threads", key.threads},
          {"bytes", result.bytes},
          {"us_median", QuartilesOf(result.us).median},
          {"gb_per_s", result.gb_per_s()},
          {"ceiling_gb_per_s", QuartilesOf(result.ceiling_gb_per_s).median},
          {"ratio_to_ceiling", QuartilesOf(result.ratios).median},
          {"us_compute_only", QuartilesOf(result.resident_us).median},
          {"tokens", result.tokens},
          {"us_quartiles", triple(result.us)},
          {"ceiling_quartiles", triple(result.ceiling_gb_per_s)},
          {"ratio_quartiles", triple(result.ratios)},
          {"ratio_of_each_run", result.run_medians},
          {"slices_accepted", result.ratios.size()},
          {"slices_tried", result.slices_tried},
          {"slices_filtered", result.filtered}};
}

void PrintTableHead() {
  fmt::print("{:<56} {:>10} {:>7} {:>7}  {:<20} {:>10} {:>8} {:>7}  {}\n", "row", "us / step", "GB/s", "ceiling",
             "ratio (quartiles)", "compute us", "Mtok/s", "x bf16", "slices");
}

void PrintTableRow(const RowResult& result, const RowResult* bf16) {
  const Quartiles ratio = QuartilesOf(result.ratios);
  const double us = QuartilesOf(result.us).median;
  std::string mtok = "-";
  std::string against = "-";
  if (result.tokens != 0 && us != 0) mtok = fmt::format("{:.1f}", static_cast<double>(result.tokens) / us);
  if (bf16 != nullptr && bf16->tokens_per_ceiling_byte() > 0) {
    against = fmt::format("{:.2f}", result.tokens_per_ceiling_byte() / bf16->tokens_per_ceiling_byte());
  }
  fmt::print("{:<56} {:>10.1f} {:>7.2f} {:>7} {:>6.3f} ({:.3f}-{:.3f}) {:>11} {:>8} {:>7}  {}/{}\n", result.key.name,
             us, result.gb_per_s(), Cell(result.ceiling_gb_per_s, "{:.2f}"), ratio.median, ratio.low, ratio.high,
             Cell(result.resident_us, "{:.1f}"), mtok, against, result.ratios.size(), result.slices_tried);
  std::fflush(stdout);
}

}  // namespace tributary

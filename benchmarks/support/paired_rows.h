// A row of a benchmark: some work whose slices alternate with slices of the read ceiling, so that both see the same
// state of the machine's memory; what is reported is the median of the paired ratios, with quartiles.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "benchmarks/support/read_bandwidth.h"
#include "benchmarks/support/slice_pool.h"
#include "nlohmann/json.hpp"

namespace tributary {

// What a row is about. Fields that do not apply are 0 or "none".
struct RowKey {
  std::string name;  // family/isa/..., unique in a run
  std::string isa = "none";
  std::string dtype_k = "none";
  std::string dtype_v = "none";
  std::string path = "dense";
  uint32_t block_tokens = 0;
  uint32_t group_size = 0;
  uint32_t head_dim = 0;
  uint32_t kv_heads = 0;
  uint64_t kv_len = 0;
  uint32_t batch = 0;
  int threads = 0;
};

// The work of a row. A step is what one layer of one decode step does; slices are parts of a step, or several.
class Workload {
 public:
  virtual ~Workload() = default;
  virtual uint64_t step_bytes() const = 0;   // read from memory by one step
  virtual uint64_t step_tokens() const = 0;  // (token, KV head) pairs that one step attends to; 0 if it attends to none
  // One slice reads about `bytes_per_thread` on each thread. To be called before RunSlice.
  virtual void SetSlice(uint64_t bytes_per_thread) = 0;
  virtual uint64_t slice_bytes() const = 0;  // all threads together
  // The next slice's part of this thread: memory that the caches do not hold.
  virtual void RunSlice(int thread_idx) = 0;
  // One call of the same kind over data that stays in the thread's L2 cache.
  virtual void CallResident(int thread_idx) = 0;
  virtual uint64_t resident_bytes() const = 0;  // of one CallResident on all threads
};

struct Quartiles {
  double low = 0;
  double median = 0;
  double high = 0;
};
Quartiles QuartilesOf(std::vector<double> values);

struct RowResult {
  RowKey key;
  uint64_t bytes = 0;  // of a step
  uint64_t tokens = 0;
  std::vector<double> us;  // of a step, from each accepted slice
  std::vector<double> ceiling_gb_per_s;
  std::vector<double> ratios;
  std::vector<double> resident_us;  // of a step
  std::vector<double> run_medians;  // of the ratio, one per run
  int slices_tried = 0;
  bool filtered = true;  // false: the machine cannot tell quiet slices from others

  double gb_per_s() const;
  // Tokens per second at the ceiling's median: what rows of different runs can be compared by.
  double tokens_per_ceiling_byte() const;
};

struct RowOptions {
  int slices = 40;         // accepted pairs per run
  double max_seconds = 3;  // per run: a busy machine ends a row early
  double slice_us = 600;   // how long a slice should take
  int resident_slices = 15;
};

// One run of a row, added to `result`.
void MeasureRow(SlicePool& pool, ReadCeiling& ceiling, Workload& workload, const RowOptions& options,
                RowResult& result);

nlohmann::json ToJson(const RowResult& result);
void PrintTableHead();
void PrintTableRow(const RowResult& result, const RowResult* bf16);

}  // namespace tributary

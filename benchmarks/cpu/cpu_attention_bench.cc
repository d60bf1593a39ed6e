// The CPU kernels against the read ceiling of the same run: attention over dense and chosen KV, choosing blocks,
// storing KV. --help says what can be chosen; the JSON's fields are those of ToJson (paired_rows.h) and do not change.
#include <sys/utsname.h>

#include <algorithm>
#include <cstdio>
#include <fstream>
#include <functional>
#include <optional>
#include <regex>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/limits.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "benchmarks/cpu/attention_workloads.h"
#include "benchmarks/cpu/key_scan_workload.h"
#include "benchmarks/cpu/kv_region.h"
#include "benchmarks/cpu/selection_workloads.h"
#include "benchmarks/support/paired_rows.h"
#include "fmt/format.h"
#include "kv_store/arena.h"
#include "nlohmann/json.hpp"

namespace tributary {
namespace {

struct Flags {
  std::vector<std::string> what = {"attend", "select", "scan", "ingest"};
  std::vector<std::string> isas = {"best"};
  std::vector<std::string> dtypes = {"bf16", "f16", "int8", "int4", "fp8"};
  std::vector<std::string> paths = {"dense", "blocks"};
  std::vector<uint32_t> block_tokens = {32, 64, 128};
  std::vector<uint64_t> kv_lens = {32768, 131072};
  std::vector<uint32_t> group_sizes = {4};
  std::vector<uint32_t> head_dims = {128};
  std::vector<uint32_t> batches = {1};
  std::vector<int> threads;
  uint32_t kv_heads = 8;
  uint32_t n_q = 1;
  bool bf16_q = false;
  std::optional<uint32_t> prefetch_bytes;
  double selected_share = 0.05;
  bool ascending = false;
  uint64_t resident_kib = 512;
  uint64_t working_set_mib = 1024;
  bool hugetlb = false;
  int runs = 1;
  std::string rows = ".*";
  bool list = false;
  std::string json;
  RowOptions options;
};

// Empty, or what is wrong with it (of which the library tells by an exception).
std::string IsRegex(const std::string& text) {
  try {
    const std::regex regex(text);
    return "";
  } catch (const std::regex_error& error) {
    return fmt::format("'{}' is no regular expression: {}", text, error.what());
  }
}

void AddFlags(CLI::App& app, Flags& flags) {
  const auto list = [&](const char* name, auto& value, const char* help) {
    return app.add_option(name, value, help)->delimiter(',')->capture_default_str();
  };
  list("--what", flags.what,
       "attend, select (score block summaries, take the top k), scan (find tokens by key codes), ingest (store KV)");
  list("--isa", flags.isas, "kernels by name; 'best' of this machine, or 'all' that it supports");
  list("--dtype", flags.dtypes, "storage of K and V, or K:V: f32, bf16, f16, int8, int4, fp8");
  list("--path", flags.paths, "dense: whole streams; blocks: a share of the blocks; tokens: of the tokens");
  list("--block-tokens", flags.block_tokens, "for blocks and select: 16, 32, 64, 128")
      ->check(CLI::IsMember({16, 32, 64, 128}));
  list("--kv-len", flags.kv_lens, "tokens of a stream; blocks and select take the longest")
      ->check(CLI::Range(uint64_t{1}, limits::kMaxContextTokens));
  list("--group-size", flags.group_sizes, "query heads per KV head")->check(CLI::Range(1u, limits::kMaxGroupSize));
  list("--head-dim", flags.head_dims, "dims of a head")->check(CLI::Range(1u, limits::kMaxHeadDim));
  list("--batch", flags.batches, "sequences of a step: scales us_median and bytes")
      ->check(CLI::Range(1u, limits::kMaxEntriesPerFrame));
  list("--threads", flags.threads, "threads, each on a core of its own; default 1 and all cores");
  app.add_option("--kv-heads", flags.kv_heads, "KV heads of a step")
      ->check(CLI::Range(1u, limits::kMaxHeads))
      ->capture_default_str();
  app.add_option("--queries", flags.n_q, "query tokens per head")->capture_default_str();
  app.add_flag("--bf16-q", flags.bf16_q, "q rounded to bf16, as a model in bf16 may have it");
  app.add_option("--prefetch-bytes", flags.prefetch_bytes,
                 "how far ahead dense rows prefetch; 0: not at all; default: the best of this machine");
  app.add_option("--share", flags.selected_share, "share of the tokens that blocks and tokens read")
      ->check(CLI::Range(0.0, 1.0))
      ->capture_default_str();
  app.add_flag("--ascending", flags.ascending, "blocks in the order of addresses, not in random order");
  app.add_option("--resident-kib", flags.resident_kib, "data per thread for us_compute_only: half of an L2 cache")
      ->capture_default_str();
  app.add_option("--working-set-mib", flags.working_set_mib,
                 "memory that rows cycle through; several times the L3 cache. The ceiling has as "
                 "much of its own")
      ->check(CLI::Range(1, 1 << 24))
      ->capture_default_str();
  app.add_flag("--hugetlb", flags.hugetlb, "reserved huge pages, if there are enough");
  app.add_option("--slices", flags.options.slices, "accepted pairs of slices per row and run")->capture_default_str();
  app.add_option("--slice-us", flags.options.slice_us, "length of a slice")
      ->check(CLI::Range(1.0, 1e7))
      ->capture_default_str();
  app.add_option("--row-seconds", flags.options.max_seconds, "a row's run ends then, whatever was accepted")
      ->capture_default_str();
  app.add_option("--runs", flags.runs, "times that all rows are measured")->capture_default_str();
  app.add_option("--rows", flags.rows, "regular expression: only rows whose name it finds")
      ->check(IsRegex)
      ->capture_default_str();
  app.add_flag("--list", flags.list, "print the names of the rows, measure nothing");
  app.add_option("--json", flags.json, "file to write the rows to; - for standard output");
}

// The memory and the threads of the rows being measured.
struct Bench {
  SlicePool* pool = nullptr;
  std::span<std::byte> memory;
  std::span<std::byte> ceiling_memory;
  std::optional<KvTileLayout> filled_with;  // the layout of all of `memory`, whatever the streams' length
};

// A row and how to make its work; `run` keeps the region alive while `measure` runs.
struct Row {
  RowKey key;
  std::function<absl::Status(Bench&, const std::function<void(Workload&)>& measure)> run;
};

absl::StatusOr<std::vector<const CpuKernel*>> Kernels(const Flags& flags, KvStorage k, KvStorage v) {
  std::vector<const CpuKernel*> kernels;
  const uint32_t wanted = (1u << static_cast<uint32_t>(k)) | (1u << static_cast<uint32_t>(v));
  for (const std::string& isa : flags.isas) {
    if (isa != "best" && isa != "all") {
      // One that only choosing blocks has.
      if (block_selection::Find(isa).ok() && !cpu_kernels::Find(isa).ok()) continue;
      TRIBUTARY_ASSIGN_OR_RETURN(const CpuKernel* kernel, cpu_kernels::Find(isa));
      if ((kernel->storages & wanted) == wanted) kernels.push_back(kernel);
      continue;
    }
    for (const CpuKernel& kernel : cpu_kernels::All()) {
      if (!cpu_kernels::IsSupported(kernel) || (kernel.storages & wanted) != wanted) continue;
      kernels.push_back(&kernel);
      if (isa == "best") break;
    }
  }
  return kernels;
}

struct DTypePair {
  KvStorage k;
  KvStorage v;
  std::string name() const { return fmt::format("{}-{}", KvStorageName(k), KvStorageName(v)); }
};

absl::StatusOr<DTypePair> ParsePair(const std::string& text) {
  const size_t colon = text.find(':');
  TRIBUTARY_ASSIGN_OR_RETURN(const KvStorage k, ParseKvStorage(text.substr(0, colon)));
  if (colon == std::string::npos) return DTypePair{k, k};
  TRIBUTARY_ASSIGN_OR_RETURN(const KvStorage v, ParseKvStorage(text.substr(colon + 1)));
  return DTypePair{k, v};
}

// One geometry: the innermost loops share it.
struct Shape {
  int threads;
  uint32_t head_dim;
  uint32_t group_size;
  uint32_t batch;
};

RowKey KeyOf(const Flags& flags, const Shape& shape, uint64_t kv_len) {
  RowKey key;
  key.group_size = shape.group_size;
  key.head_dim = shape.head_dim;
  key.kv_heads = flags.kv_heads;
  key.kv_len = kv_len;
  key.batch = shape.batch;
  key.threads = shape.threads;
  return key;
}

std::string Suffix(const RowKey& key) {
  return fmt::format("kv{}/g{}/d{}/b{}/t{}", key.kv_len, key.group_size, key.head_dim, key.batch, key.threads);
}

Row AttendRow(const Flags& flags, const Shape& shape, const CpuKernel& kernel, DTypePair dtypes,
              const std::string& path, uint32_t block_tokens, uint64_t kv_len) {
  Row row;
  row.key = KeyOf(flags, shape, kv_len);
  row.key.isa = kernel.name;
  row.key.dtype_k = KvStorageName(dtypes.k);
  row.key.dtype_v = KvStorageName(dtypes.v);
  row.key.path = path;
  row.key.block_tokens = block_tokens;
  const std::string blocks = path == "blocks" ? std::to_string(block_tokens) : "";
  const std::string queries = (flags.n_q == 1 ? "" : fmt::format("q{}/", flags.n_q)) + (flags.bf16_q ? "bf16q/" : "");
  row.key.name =
      fmt::format("attend/{}/{}/{}{}/{}{}", kernel.name, dtypes.name(), path, blocks, queries, Suffix(row.key));
  AttentionCase c;
  c.kernel = &kernel;
  c.group_size = shape.group_size;
  c.n_q = flags.n_q;
  c.bf16_q = flags.bf16_q;
  c.prefetch_bytes = flags.prefetch_bytes;
  c.kv_heads = flags.kv_heads;
  c.batch = shape.batch;
  c.block_tokens = block_tokens;
  c.selected_share = flags.selected_share;
  c.ascending = flags.ascending;
  c.resident_bytes = flags.resident_kib << 10;
  const KvTileLayout layout = MakeKvTileLayout(dtypes.k, dtypes.v, shape.head_dim);
  row.run = [c, layout, kv_len](Bench& bench, const auto& measure) -> absl::Status {
    TRIBUTARY_RETURN_IF_ERROR(cpu_kernels::ValidateKernelShape(*c.kernel, layout, c.group_size));
    TRIBUTARY_ASSIGN_OR_RETURN(const KvRegion region, KvRegion::Create(*bench.pool, bench.memory, layout, kv_len,
                                                                       bench.filled_with == layout));
    bench.filled_with = layout;
    measure(*MakeAttentionWorkload(region, c, bench.pool->num_threads()));
    return absl::OkStatus();
  };
  return row;
}

absl::Status AddAttendRows(const Flags& flags, const Shape& shape, std::vector<Row>& rows) {
  const uint64_t longest = *std::max_element(flags.kv_lens.begin(), flags.kv_lens.end());
  for (const std::string& dtype : flags.dtypes) {
    TRIBUTARY_ASSIGN_OR_RETURN(const DTypePair pair, ParsePair(dtype));
    TRIBUTARY_ASSIGN_OR_RETURN(const auto kernels, Kernels(flags, pair.k, pair.v));
    for (const CpuKernel* kernel : kernels) {
      for (const std::string& path : flags.paths) {
        if (path == "dense") {
          for (uint64_t kv_len : flags.kv_lens) {
            rows.push_back(AttendRow(flags, shape, *kernel, pair, path, 0, kv_len));
          }
        } else if (path == "blocks") {
          for (uint32_t block : flags.block_tokens) {
            rows.push_back(AttendRow(flags, shape, *kernel, pair, path, block, longest));
          }
        } else if (path == "tokens") {
          rows.push_back(AttendRow(flags, shape, *kernel, pair, path, 1, longest));
        } else {
          return absl::InvalidArgumentError(fmt::format("unknown path '{}'; use dense, blocks or tokens", path));
        }
      }
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<const BlockSelectionKernel*>> SelectionKernels(const Flags& flags) {
  std::vector<const BlockSelectionKernel*> kernels;
  for (const BlockSelectionKernel& kernel : block_selection::All()) {
    if ((kernel.required_isa & ~cpu_kernels::SupportedIsa()) != 0) continue;
    const auto named = [&](const char* name) {
      return std::find(flags.isas.begin(), flags.isas.end(), name) != flags.isas.end();
    };
    if (named("all") || named(kernel.name) || (named("best") && kernels.empty())) kernels.push_back(&kernel);
  }
  return kernels;
}

absl::Status AddSelectRows(const Flags& flags, const Shape& shape, std::vector<Row>& rows) {
  struct Variant {
    const char* name;
    SummaryKind kind;
    SummaryStorage storage;
    bool only_choose;
  };
  constexpr Variant kVariants[] = {
      {"mean-int8", SummaryKind::kMean, SummaryStorage::kInt8, false},
      {"minmax-int8", SummaryKind::kMinMax, SummaryStorage::kInt8, false},
      {"mean-bf16", SummaryKind::kMean, SummaryStorage::kBf16, false},
      {"minmax-bf16", SummaryKind::kMinMax, SummaryStorage::kBf16, false},
      {"only-topk", SummaryKind::kMean, SummaryStorage::kInt8, true},
  };
  TRIBUTARY_ASSIGN_OR_RETURN(const auto kernels, SelectionKernels(flags));
  const uint64_t longest = *std::max_element(flags.kv_lens.begin(), flags.kv_lens.end());
  for (const BlockSelectionKernel* kernel : kernels) {
    for (uint32_t block : flags.block_tokens) {
      for (const Variant& variant : kVariants) {
        Row row;
        row.key = KeyOf(flags, shape, longest);
        row.key.isa = kernel->name;
        row.key.path = "select";
        row.key.block_tokens = block;
        row.key.name = fmt::format("select/{}/{}/{}/{}", kernel->name, variant.name, block, Suffix(row.key));
        const SelectionCase c{kernel,
                              MakeBlockSummaryLayout(variant.kind, variant.storage, shape.head_dim),
                              longest,
                              block,
                              shape.group_size,
                              flags.kv_heads,
                              shape.batch,
                              flags.selected_share,
                              variant.only_choose};
        row.run = [c](Bench& bench, const auto& measure) -> absl::Status {
          bench.filled_with.reset();
          TRIBUTARY_ASSIGN_OR_RETURN(const auto workload, MakeSelectionWorkload(*bench.pool, bench.memory, c));
          measure(*workload);
          return absl::OkStatus();
        };
        rows.push_back(std::move(row));
      }
    }
  }
  return absl::OkStatus();
}

absl::Status AddKeyScanRows(const Flags& flags, const Shape& shape, std::vector<Row>& rows) {
  TRIBUTARY_ASSIGN_OR_RETURN(const auto kernels, SelectionKernels(flags));
  const uint64_t longest = *std::max_element(flags.kv_lens.begin(), flags.kv_lens.end());
  for (const BlockSelectionKernel* kernel : kernels) {
    for (const uint32_t bits : {1u, 2u, 4u}) {
      Row row;
      row.key = KeyOf(flags, shape, longest);
      row.key.isa = kernel->name;
      row.key.path = "scan";
      row.key.name = fmt::format("scan/{}/{}-bit/{}", kernel->name, bits, Suffix(row.key));
      const KeyScanCase c{kernel, bits, shape.head_dim, longest, shape.group_size, flags.kv_heads, shape.batch};
      row.run = [c](Bench& bench, const auto& measure) -> absl::Status {
        bench.filled_with.reset();
        TRIBUTARY_ASSIGN_OR_RETURN(const auto workload, MakeKeyScanWorkload(*bench.pool, bench.memory, c));
        measure(*workload);
        return absl::OkStatus();
      };
      rows.push_back(std::move(row));
    }
  }
  return absl::OkStatus();
}

absl::Status AddIngestRows(const Flags& flags, const Shape& shape, std::vector<Row>& rows) {
  constexpr uint64_t kStreamTokens = 32768;
  for (const std::string& dtype : flags.dtypes) {
    TRIBUTARY_ASSIGN_OR_RETURN(const DTypePair pair, ParsePair(dtype));
    TRIBUTARY_ASSIGN_OR_RETURN(const auto kernels, Kernels(flags, pair.k, pair.v));
    for (const CpuKernel* kernel : kernels) {
      // What a prefill of 16-bit activations sends; float storages store what they are sent.
      const KvStorage source = IsFloatKvStorage(pair.k) && pair.k == pair.v ? pair.k : KvStorage::kBf16;
      Row row;
      row.key = KeyOf(flags, shape, kStreamTokens);
      row.key.isa = kernel->name;
      row.key.dtype_k = KvStorageName(pair.k);
      row.key.dtype_v = KvStorageName(pair.v);
      row.key.path = "ingest";
      row.key.name =
          fmt::format("ingest/{}/{}-to-{}/{}", kernel->name, KvStorageName(source), pair.name(), Suffix(row.key));
      const IngestCase c{kernel, source, flags.kv_heads, shape.batch};
      const KvTileLayout layout = MakeKvTileLayout(pair.k, pair.v, shape.head_dim);
      row.run = [c, layout](Bench& bench, const auto& measure) -> absl::Status {
        bench.filled_with.reset();
        // A quarter of the memory holds rows, the rest the streams that they go to.
        const size_t rows_bytes = bench.memory.size() / 4 / kArenaAlignmentBytes * kArenaAlignmentBytes;
        const std::span<std::byte> source_rows = bench.memory.first(rows_bytes);
        TRIBUTARY_ASSIGN_OR_RETURN(
            const KvRegion region,
            KvRegion::Create(*bench.pool, bench.memory.subspan(rows_bytes), layout, kStreamTokens));
        measure(*MakeIngestWorkload(region, source_rows, c, bench.pool->num_threads()));
        return absl::OkStatus();
      };
      rows.push_back(std::move(row));
    }
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<Row>> MakeRows(const Flags& flags) {
  std::vector<Row> rows;
  for (int threads : flags.threads) {
    for (uint32_t head_dim : flags.head_dims) {
      for (uint32_t group_size : flags.group_sizes) {
        for (uint32_t batch : flags.batches) {
          const Shape shape{threads, head_dim, group_size, batch};
          for (const std::string& what : flags.what) {
            if (what == "attend") {
              TRIBUTARY_RETURN_IF_ERROR(AddAttendRows(flags, shape, rows));
            } else if (what == "select") {
              TRIBUTARY_RETURN_IF_ERROR(AddSelectRows(flags, shape, rows));
            } else if (what == "scan") {
              TRIBUTARY_RETURN_IF_ERROR(AddKeyScanRows(flags, shape, rows));
            } else if (what == "ingest") {
              TRIBUTARY_RETURN_IF_ERROR(AddIngestRows(flags, shape, rows));
            } else {
              return absl::InvalidArgumentError(
                  fmt::format("--what: unknown group '{}'; use attend, select, scan, ingest", what));
            }
          }
        }
      }
    }
  }
  const std::regex wanted(flags.rows);
  std::erase_if(rows, [&](const Row& row) { return !std::regex_search(row.key.name, wanted); });
  if (rows.empty()) return absl::InvalidArgumentError("no row is left; --list without --rows shows those there are");
  return rows;
}

std::string CpuName() {
  std::ifstream file("/proc/cpuinfo");
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with("model name")) return line.substr(line.find(':') + 2);
  }
  return "unknown";
}

bool SameGeometry(const RowKey& a, const RowKey& b) {
  return a.block_tokens == b.block_tokens && a.kv_len == b.kv_len && a.group_size == b.group_size &&
         a.head_dim == b.head_dim && a.batch == b.batch && a.threads == b.threads;
}

// The bf16 row that a row's tokens per second are compared with: the same but for dtype (and ISA).
const RowResult* Bf16Row(const std::vector<RowResult>& results, const RowResult& row) {
  if (row.tokens == 0) return nullptr;
  for (const RowResult& other : results) {
    const RowKey& key = other.key;
    if (key.dtype_k == "bf16" && key.dtype_v == "bf16" && key.path == row.key.path && SameGeometry(key, row.key)) {
      return &other;
    }
  }
  return nullptr;
}

// Selection's share of the attention over the bf16 blocks that it selects, by rows of the same run.
void PrintSelectionShares(const std::vector<RowResult>& results) {
  bool first = true;
  for (const RowResult& select : results) {
    if (select.key.path != "select" || select.ratios.empty()) continue;
    for (const RowResult& attend : results) {
      const RowKey& key = attend.key;
      if (key.path != "blocks" || key.dtype_k != "bf16" || key.dtype_v != "bf16" || !SameGeometry(select.key, key) ||
          attend.ratios.empty()) {
        continue;
      }
      // In units of the ceiling, since the two rows may have seen different states of the memory.
      const auto cost = [](const RowResult& row) {
        return static_cast<double>(row.bytes) / QuartilesOf(row.ratios).median;
      };
      if (first) fmt::print("\nselection as a share of the attention over the blocks that it selects\n");
      first = false;
      fmt::print("{:<56} {:>6.3f}  of {}\n", select.key.name, cost(select) / cost(attend), key.name);
      break;  // the best ISA's row stands first
    }
  }
}

absl::Status Measure(const Flags& flags, std::vector<Row>& rows, std::vector<RowResult>& results) {
  const size_t bytes = flags.working_set_mib << 20;
  TRIBUTARY_ASSIGN_OR_RETURN(const Arena memory, Arena::Create({.bytes = bytes, .try_hugetlb = flags.hugetlb}));
  TRIBUTARY_ASSIGN_OR_RETURN(const Arena ceiling_memory, Arena::Create({.bytes = bytes, .try_hugetlb = flags.hugetlb}));
  fmt::print(
      "{}; {} MiB for the rows and as much for the ceiling, pages {}; us are those of a step: one "
      "layer, "
      "all KV heads and sequences\n",
      CpuName(), flags.working_set_mib, PageKindName(memory.page_kind()));
  results.resize(rows.size());
  const std::vector<int> cpus = AllowedCpus();
  Bench bench;
  bench.memory = memory.memory();
  bench.ceiling_memory = ceiling_memory.memory();
  for (int run = 0; run < flags.runs; ++run) {
    if (flags.runs > 1) fmt::print("run {} of {}\n", run + 1, flags.runs);
    PrintTableHead();
    for (size_t i = 0; i < rows.size();) {
      // Threads, and the ceiling's region, are made once for the rows that follow each other with one thread count.
      SlicePool pool(rows[i].key.threads, cpus);
      ReadCeiling ceiling(&pool, ceiling_memory.memory());
      bench.pool = &pool;
      if (!pool.tells_quiet() && run == 0) {
        fmt::print(
            "this kernel's CPU clocks are too coarse to tell which slices were disturbed: all "
            "count\n");
      }
      for (; i < rows.size() && rows[i].key.threads == pool.num_threads(); ++i) {
        results[i].key = rows[i].key;
        TRIBUTARY_RETURN_IF_ERROR(rows[i].run(
            bench, [&](Workload& workload) { MeasureRow(pool, ceiling, workload, flags.options, results[i]); }));
        PrintTableRow(results[i], Bf16Row(results, results[i]));
      }
    }
  }
  if (flags.runs > 1) {
    fmt::print("\nall {} runs\n", flags.runs);
    PrintTableHead();
    for (const RowResult& result : results) PrintTableRow(result, Bf16Row(results, result));
  }
  PrintSelectionShares(results);
  return absl::OkStatus();
}

absl::Status WriteJson(const Flags& flags, const std::vector<RowResult>& results) {
  utsname system{};
  uname(&system);
  nlohmann::json json = {{"cpu", CpuName()},
                         {"kernel", system.release},
                         {"working_set_mib", flags.working_set_mib},
                         {"runs", flags.runs},
                         {"rows", nlohmann::json::array()}};
  for (const RowResult& result : results) json["rows"].push_back(ToJson(result));
  if (flags.json == "-") {
    fmt::print("{}\n", json.dump(1));
    return absl::OkStatus();
  }
  std::ofstream file(flags.json);
  file << json.dump(1) << "\n";
  if (!file.flush()) return absl::UnavailableError(fmt::format("cannot write {}", flags.json));
  return absl::OkStatus();
}

absl::Status Run(Flags& flags) {
  const int cores = static_cast<int>(AllowedCpus().size());
  if (flags.threads.empty()) flags.threads = cores > 1 ? std::vector<int>{1, cores} : std::vector<int>{1};
  for (int threads : flags.threads) {
    if (threads < 1 || threads > cores) {
      return absl::InvalidArgumentError(
          fmt::format("--threads {}: this process may run on {} cores, and each thread needs one", threads, cores));
    }
  }
  if (flags.n_q < 1 || flags.n_q > kMaxKernelQueryTokens) {
    return absl::InvalidArgumentError(
        fmt::format("--queries {}: it must be 1 to {}", flags.n_q, kMaxKernelQueryTokens));
  }
  const auto has = [](const std::vector<std::string>& names, const char* name) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  const bool takes_blocks = has(flags.what, "select") || (has(flags.what, "attend") && has(flags.paths, "blocks"));
  const uint64_t longest = *std::max_element(flags.kv_lens.begin(), flags.kv_lens.end());
  const uint32_t largest = *std::max_element(flags.block_tokens.begin(), flags.block_tokens.end());
  if (takes_blocks && longest < largest) {
    return absl::InvalidArgumentError(
        fmt::format("--block-tokens {}: the longest --kv-len is {}, which holds no such block", largest, longest));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(std::vector<Row> rows, MakeRows(flags));
  if (flags.list) {
    for (const Row& row : rows) fmt::print("{}\n", row.key.name);
    return absl::OkStatus();
  }
  std::vector<RowResult> results;
  TRIBUTARY_RETURN_IF_ERROR(Measure(flags, rows, results));
  return flags.json.empty() ? absl::OkStatus() : WriteJson(flags, results);
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) {
  tributary::Flags flags;
  CLI::App app(
      "CPU attention kernels against the read ceiling of the same run. A row's slices alternate "
      "with reads of "
      "other memory, and count only if each pinned thread had its core; ratios are medians of the "
      "pairs.");
  tributary::AddFlags(app, flags);
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = tributary::Run(flags);
  if (status.ok()) return 0;
  fmt::print(stderr, "cpu_attention_bench: {}\n", std::string(status.message()));
  return 1;
}

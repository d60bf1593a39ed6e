#include "benchmarks/cpu/selection_workloads.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "fmt/format.h"
#include "kv_store/block_summaries.h"

namespace tributary {
namespace {

struct alignas(64) SelectState {
  std::vector<float> q;
  std::vector<float> group_max;
  std::vector<uint32_t> ids;
  size_t next_call = 0;
};

class SelectionWorkload final : public Workload {
 public:
  SelectionWorkload(SlicePool& pool, std::span<std::byte> memory, const SelectionCase& c)
      : memory_(memory), case_(c), threads_(static_cast<size_t>(pool.num_threads())) {
    num_blocks_ = static_cast<uint32_t>((c.kv_len + c.block_tokens - 1) / c.block_tokens);
    chosen_ = std::max<uint32_t>(1, static_cast<uint32_t>(std::lround(c.selected_share * num_blocks_)));
    records_ = (num_blocks_ + kSummaryRecordBlocks - 1) / kSummaryRecordBlocks;
    streams_per_thread_ = memory.size() / stream_bytes() / threads_.size();
    if (streams_per_thread_ == 0) return;
    std::mt19937_64 random(5);
    std::normal_distribution<float> normal;
    for (SelectState& thread : threads_) {
      thread.q.resize(size_t{c.group_size} * c.layout.head_dim);
      for (float& value : thread.q) value = normal(random);
      thread.group_max.resize(num_blocks_);
      for (float& score : thread.group_max) score = normal(random);
      thread.ids.resize(chosen_ + kSelectSlack);
    }
    Fill(pool, random);
  }

  size_t streams_per_thread() const { return streams_per_thread_; }
  uint64_t stream_bytes() const { return uint64_t{records_} * case_.layout.record_bytes; }

  uint64_t step_tokens() const override { return 0; }
  uint64_t step_bytes() const override { return uint64_t{case_.batch} * case_.kv_heads * stream_bytes(); }
  void SetSlice(uint64_t bytes_per_thread) override {
    calls_per_slice_ = std::max<uint64_t>(1, bytes_per_thread / stream_bytes());
  }
  uint64_t slice_bytes() const override { return threads_.size() * calls_per_slice_ * stream_bytes(); }
  void RunSlice(int thread_idx) override {
    SelectState& thread = threads_[static_cast<size_t>(thread_idx)];
    for (uint64_t i = 0; i < calls_per_slice_; ++i) {
      const size_t stream =
          static_cast<size_t>(thread_idx) * streams_per_thread_ + thread.next_call++ % streams_per_thread_;
      SelectFrom(thread, memory_.data() + stream * stream_bytes());
    }
  }
  // The same stream again and again: 0.5 MB at 128k tokens in blocks of 32, which an L2 cache holds.
  void CallResident(int thread_idx) override {
    SelectState& thread = threads_[static_cast<size_t>(thread_idx)];
    const size_t stream = static_cast<size_t>(thread_idx) * streams_per_thread_;
    SelectFrom(thread, memory_.data() + stream * stream_bytes());
  }
  uint64_t resident_bytes() const override { return threads_.size() * stream_bytes(); }

 private:
  static constexpr uint32_t kPatternRecords = 4;

  void Fill(SlicePool& pool, std::mt19937_64& random) {
    std::normal_distribution<float> normal;
    const BlockSummaryLayout& layout = case_.layout;
    std::vector<std::byte> pattern(size_t{kPatternRecords} * layout.record_bytes);
    std::vector<float> rows(layout.rows);
    for (uint32_t block = 0; block < kPatternRecords * kSummaryRecordBlocks; ++block) {
      for (float& row : rows) row = normal(random);
      StoreBlockSummary(layout, rows.data(), block % kSummaryRecordBlocks,
                        pattern.data() + block / kSummaryRecordBlocks * layout.record_bytes);
    }
    const size_t records = streams_per_thread_ * records_;
    pool.Run([&](int t) {
      for (size_t i = 0; i < records; ++i) {
        const size_t record = static_cast<size_t>(t) * records + i;
        std::memcpy(memory_.data() + record * layout.record_bytes,
                    pattern.data() + i % kPatternRecords * layout.record_bytes, layout.record_bytes);
      }
    });
  }

  void SelectFrom(SelectState& thread, const std::byte* records) {
    if (!case_.only_choose) {
      ScoreBlocksArgs args;
      args.layout = case_.layout;
      args.records = records;
      args.num_blocks = num_blocks_;
      args.q = thread.q.data();
      args.group_size = case_.group_size;
      args.softmax_scale = 1.0f / std::sqrt(static_cast<float>(case_.layout.head_dim));
      args.group_max = thread.group_max.data();
      case_.kernel->fns.score_blocks(args);
    }
    case_.kernel->fns.top_k(thread.group_max.data(), num_blocks_, chosen_, thread.ids.data());
  }

  std::span<std::byte> memory_;
  const SelectionCase case_;
  std::vector<SelectState> threads_;
  uint32_t num_blocks_ = 0;
  uint32_t chosen_ = 0;
  uint32_t records_ = 0;
  size_t streams_per_thread_ = 0;
  uint64_t calls_per_slice_ = 1;
};

class IngestWorkload final : public Workload {
 public:
  IngestWorkload(const KvRegion& region, std::span<std::byte> rows, const IngestCase& c, int num_threads)
      : region_(region),
        rows_(rows),
        case_(c),
        next_call_(static_cast<size_t>(num_threads) * kPadding),
        num_threads_(static_cast<size_t>(num_threads)) {
    row_bytes_ = size_t{region.layout().head_dim} * KvCodeBits(c.source) / 8;
    block_bytes_ = row_bytes_ * c.kv_heads * kKvTileTokens;
    blocks_per_thread_ = rows.size() / (2 * block_bytes_) / num_threads_;
  }

  uint64_t step_tokens() const override { return uint64_t{case_.batch} * case_.kv_heads * kKvTileTokens; }
  uint64_t step_bytes() const override { return uint64_t{case_.batch} * call_bytes(); }
  void SetSlice(uint64_t bytes_per_thread) override {
    calls_per_slice_ = std::max<uint64_t>(1, bytes_per_thread / call_bytes());
  }
  uint64_t slice_bytes() const override { return num_threads_ * calls_per_slice_ * call_bytes(); }
  void RunSlice(int thread_idx) override {
    const size_t t = static_cast<size_t>(thread_idx);
    for (uint64_t i = 0; i < calls_per_slice_; ++i) Store(t, next_call_[t * kPadding]++);
  }
  void CallResident(int thread_idx) override { Store(static_cast<size_t>(thread_idx), 0); }
  uint64_t resident_bytes() const override { return num_threads_ * call_bytes(); }

 private:
  static constexpr size_t kPadding = 8;  // a cache line per thread

  uint64_t call_bytes() const { return 2 * block_bytes_ + uint64_t{case_.kv_heads} * region_.layout().record_bytes; }

  // Block `call` of 64 tokens of all heads: each head's rows into the next tile of its stream.
  void Store(size_t thread_idx, size_t call) {
    const KvTileLayout& layout = region_.layout();
    const size_t tiles_per_stream = region_.kv_len() / kKvTileTokens;
    const size_t tiles = tiles_per_stream * region_.streams_per_thread();
    const size_t block = thread_idx * blocks_per_thread_ + call % blocks_per_thread_;
    const std::byte* k = rows_.data() + block * 2 * block_bytes_;
    KvPackArgs args;
    args.layout = layout;
    args.k_source = case_.source;
    args.v_source = case_.source;
    args.k_stride_bytes = row_bytes_ * case_.kv_heads;
    args.v_stride_bytes = args.k_stride_bytes;
    args.num_tokens = kKvTileTokens;
    for (uint32_t head = 0; head < case_.kv_heads; ++head) {
      // Heads store to streams that are far apart.
      const size_t tile = (call + head * (tiles / case_.kv_heads)) % tiles;
      const size_t stream = thread_idx * region_.streams_per_thread() + tile / tiles_per_stream;
      args.k = k + head * row_bytes_;
      args.v = k + block_bytes_ + head * row_bytes_;
      args.tiles = const_cast<std::byte*>(region_.Stream(stream)) + tile % tiles_per_stream * layout.record_bytes;
      case_.kernel->pack(args);
    }
  }

  const KvRegion& region_;
  std::span<std::byte> rows_;
  const IngestCase case_;
  std::vector<size_t> next_call_;
  size_t num_threads_ = 1;
  size_t row_bytes_ = 0;
  size_t block_bytes_ = 0;  // of K, as many of V behind it
  size_t blocks_per_thread_ = 1;
  uint64_t calls_per_slice_ = 1;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Workload>> MakeSelectionWorkload(SlicePool& pool, std::span<std::byte> memory,
                                                                const SelectionCase& c) {
  auto workload = std::make_unique<SelectionWorkload>(pool, memory, c);
  if (workload->streams_per_thread() == 0) {
    return absl::ResourceExhaustedError(
        fmt::format("{} bytes of working set do not hold the summaries of a stream, {} bytes, per "
                    "thread; raise "
                    "--working-set-mib",
                    memory.size(), workload->stream_bytes()));
  }
  return workload;
}

std::unique_ptr<Workload> MakeIngestWorkload(const KvRegion& region, std::span<std::byte> rows, const IngestCase& c,
                                             int num_threads) {
  return std::make_unique<IngestWorkload>(region, rows, c, num_threads);
}

}  // namespace tributary

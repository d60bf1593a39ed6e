#include "benchmarks/cpu/attention_workloads.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <numeric>
#include <random>

#include "base/aligned_buffer.h"

namespace tributary {
namespace {

// What a thread has of its own.
struct alignas(64) ThreadState {
  std::vector<float> q;
  std::vector<float> out;
  std::vector<float> lse_ln;
  std::vector<KvPiece> pieces;
  AlignedBuffer<std::byte> resident_tiles;
  size_t next_call = 0;
};

class AttentionWorkload : public Workload {
 public:
  AttentionWorkload(const KvRegion& region, const AttentionCase& c, int num_threads)
      : region_(region), case_(c), threads_(static_cast<size_t>(num_threads)) {
    const KvTileLayout& layout = region.layout();
    resident_tiles_ = static_cast<uint32_t>(std::max<uint64_t>(1, c.resident_bytes / layout.record_bytes));
    std::mt19937_64 random(1);
    std::normal_distribution<float> normal;
    const std::vector<std::byte> tiles = RandomTiles(layout, resident_tiles_, 2);
    for (ThreadState& thread : threads_) {
      const size_t rows = size_t{c.n_q} * c.group_size;
      thread.q.resize(rows * layout.head_dim);
      for (float& value : thread.q) {
        value = normal(random);
        if (c.bf16_q) value = ToFloat(FromFloat<bf16_t>(value));
      }
      thread.out.resize(rows * layout.head_dim);
      thread.lse_ln.resize(rows);
      thread.resident_tiles = AlignedBuffer<std::byte>(tiles.size());
      std::memcpy(thread.resident_tiles.data(), tiles.data(), tiles.size());
    }
  }

  uint64_t step_tokens() const override { return uint64_t{case_.batch} * case_.kv_heads * stream_tokens(); }
  uint64_t step_bytes() const override { return uint64_t{case_.batch} * case_.kv_heads * stream_bytes(); }
  uint64_t slice_bytes() const override { return threads_.size() * calls_per_slice_ * call_bytes_; }

 protected:
  virtual uint64_t stream_tokens() const = 0;  // that a step reads of one stream
  virtual uint64_t stream_bytes() const = 0;

  // Bytes of a token: codes and params.
  double token_bytes() const {
    const KvTileLayout& layout = region_.layout();
    return static_cast<double>(layout.record_bytes) / kKvTileTokens;
  }
  DecodeAttentionArgs Args(ThreadState& thread) const {
    DecodeAttentionArgs args;
    args.q = thread.q.data();
    args.n_q = case_.n_q;
    args.group_size = case_.group_size;
    args.layout = &region_.layout();
    args.softmax_scale = 1.0f / std::sqrt(static_cast<float>(region_.layout().head_dim));
    args.prefetch_bytes = case_.prefetch_bytes.value_or(
        cpu_kernels::RunPrefetchBytes(args.layout->k_storage, args.n_q * args.group_size));
    args.out = thread.out.data();
    args.lse_ln = thread.lse_ln.data();
    return args;
  }

  const KvRegion& region_;
  const AttentionCase case_;
  std::vector<ThreadState> threads_;
  uint32_t resident_tiles_ = 1;
  uint64_t call_bytes_ = 0;
  uint64_t calls_per_slice_ = 1;
};

// One call per range of a stream, ranges in the order of addresses.
class DenseWorkload final : public AttentionWorkload {
 public:
  using AttentionWorkload::AttentionWorkload;

  void SetSlice(uint64_t bytes_per_thread) override {
    // Ranges of one length, so that all slices are alike.
    const uint64_t want =
        std::max<uint64_t>(kKvTileTokens, static_cast<uint64_t>(static_cast<double>(bytes_per_thread) / token_bytes()));
    ranges_per_stream_ = std::max<uint64_t>(1, (region_.kv_len() + want / 2) / want);
    call_tokens_ = (region_.kv_len() / ranges_per_stream_) / kKvTileTokens * kKvTileTokens;
    if (ranges_per_stream_ == 1) call_tokens_ = region_.kv_len();
    call_bytes_ = static_cast<uint64_t>(static_cast<double>(call_tokens_) * token_bytes());
    calls_per_slice_ = std::max<uint64_t>(1, bytes_per_thread / std::max<uint64_t>(call_bytes_, 1));
  }

  void RunSlice(int thread_idx) override {
    ThreadState& thread = threads_[static_cast<size_t>(thread_idx)];
    const size_t first = static_cast<size_t>(thread_idx) * region_.streams_per_thread();
    for (uint64_t i = 0; i < calls_per_slice_; ++i) {
      const size_t call = thread.next_call++ % (region_.streams_per_thread() * ranges_per_stream_);
      DecodeAttentionArgs args = Args(thread);
      args.tiles = region_.Stream(first + call / ranges_per_stream_);
      args.token_begin = call % ranges_per_stream_ * call_tokens_;
      args.token_end = args.token_begin + call_tokens_;
      case_.kernel->fn(args);
    }
  }

  void CallResident(int thread_idx) override {
    ThreadState& thread = threads_[static_cast<size_t>(thread_idx)];
    DecodeAttentionArgs args = Args(thread);
    args.tiles = thread.resident_tiles.data();
    args.token_end = uint64_t{resident_tiles_} * kKvTileTokens;
    case_.kernel->fn(args);
  }
  uint64_t resident_bytes() const override { return threads_.size() * resident_tiles_ * region_.layout().record_bytes; }

 private:
  uint64_t stream_tokens() const override { return region_.kv_len(); }
  uint64_t stream_bytes() const override {
    return static_cast<uint64_t>(static_cast<double>(region_.kv_len()) * token_bytes());
  }

  uint64_t ranges_per_stream_ = 1;
  uint64_t call_tokens_ = 0;
};

// One call per stream, over a share of its blocks. Successive calls take other blocks: each is read once before any is
// read again.
class BlocksWorkload final : public AttentionWorkload {
 public:
  BlocksWorkload(const KvRegion& region, const AttentionCase& c, int num_threads)
      : AttentionWorkload(region, c, num_threads) {
    const uint64_t blocks = region.kv_len() / c.block_tokens;
    chosen_ = std::clamp<uint64_t>(static_cast<uint64_t>(std::lround(c.selected_share * static_cast<double>(blocks))),
                                   1, blocks);
    calls_per_round_ = blocks / chosen_;
    std::mt19937_64 random(3);
    orders_.resize(region.num_streams());
    for (std::vector<uint32_t>& order : orders_) order = Shuffled(blocks, random);
    const uint64_t resident_blocks = uint64_t{resident_tiles_} * kKvTileTokens / c.block_tokens;
    resident_order_ = Shuffled(std::max<uint64_t>(1, resident_blocks), random);
    for (ThreadState& thread : threads_) {
      thread.pieces.reserve(chosen_ * std::max<uint64_t>(1, c.block_tokens / kKvTileTokens));
    }
  }

  void SetSlice(uint64_t bytes_per_thread) override {
    call_bytes_ = stream_bytes();
    calls_per_slice_ = std::max<uint64_t>(1, (bytes_per_thread + call_bytes_ / 2) / call_bytes_);
  }

  void RunSlice(int thread_idx) override {
    ThreadState& thread = threads_[static_cast<size_t>(thread_idx)];
    const size_t first = static_cast<size_t>(thread_idx) * region_.streams_per_thread();
    for (uint64_t i = 0; i < calls_per_slice_; ++i) {
      const size_t call = thread.next_call++;
      const size_t stream = first + call % region_.streams_per_thread();
      const size_t round = call / region_.streams_per_thread() % calls_per_round_;
      Attend(thread, region_.Stream(stream), orders_[stream].data() + round * chosen_, chosen_);
    }
  }

  void CallResident(int thread_idx) override {
    ThreadState& thread = threads_[static_cast<size_t>(thread_idx)];
    Attend(thread, thread.resident_tiles.data(), resident_order_.data(), resident_order_.size());
  }
  uint64_t resident_bytes() const override {
    const double share = static_cast<double>(resident_order_.size()) / static_cast<double>(chosen_);
    return static_cast<uint64_t>(static_cast<double>(threads_.size() * stream_bytes()) * share);
  }

 private:
  uint64_t stream_tokens() const override { return chosen_ * case_.block_tokens; }
  // Of single tokens the subgroup of 16, which is what the kernel must read.
  uint64_t stream_bytes() const override {
    const uint32_t read_tokens = std::max(case_.block_tokens, kKvSubgroupTokens);
    return static_cast<uint64_t>(static_cast<double>(chosen_ * read_tokens) * token_bytes());
  }

  std::vector<uint32_t> Shuffled(uint64_t count, std::mt19937_64& random) const {
    std::vector<uint32_t> order(count);
    std::iota(order.begin(), order.end(), 0u);
    std::shuffle(order.begin(), order.end(), random);
    if (!case_.ascending) return order;
    for (auto begin = order.begin(); begin != order.end();) {
      const auto end = begin + std::min<ptrdiff_t>(static_cast<ptrdiff_t>(chosen_), order.end() - begin);
      std::sort(begin, end);
      begin = end;
    }
    return order;
  }

  void Attend(ThreadState& thread, const std::byte* tiles, const uint32_t* blocks, uint64_t count) {
    const uint32_t record_bytes = region_.layout().record_bytes;
    const uint32_t block_tokens = case_.block_tokens;
    const uint64_t mask = block_tokens >= kKvTileTokens ? ~uint64_t{0} : (uint64_t{1} << block_tokens) - 1;
    thread.pieces.clear();
    for (uint64_t i = 0; i < count; ++i) {
      const uint64_t begin = uint64_t{blocks[i]} * block_tokens;
      for (uint64_t token = begin; token < begin + block_tokens; token += kKvTileTokens) {
        const uint64_t tile = token / kKvTileTokens;
        thread.pieces.push_back({tiles + tile * record_bytes, mask << (token % kKvTileTokens), tile * kKvTileTokens});
      }
    }
    DecodeAttentionArgs args = Args(thread);
    args.pieces = thread.pieces.data();
    args.num_pieces = static_cast<uint32_t>(thread.pieces.size());
    case_.kernel->fn(args);
  }

  uint64_t chosen_ = 1;
  uint64_t calls_per_round_ = 1;
  std::vector<std::vector<uint32_t>> orders_;  // [stream]: its blocks, shuffled
  std::vector<uint32_t> resident_order_;
};

}  // namespace

std::unique_ptr<Workload> MakeAttentionWorkload(const KvRegion& region, const AttentionCase& c, int num_threads) {
  if (c.block_tokens == 0) return std::make_unique<DenseWorkload>(region, c, num_threads);
  return std::make_unique<BlocksWorkload>(region, c, num_threads);
}

}  // namespace tributary

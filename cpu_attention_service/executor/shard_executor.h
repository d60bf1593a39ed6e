// Attention of a batch of queries over shards, spread over the cores.
//
// The work of one query is cut at fixed places: per KV head, and per run of the shard (KvShard::RunAt) or of its
// context cache, an extent. The partials of one head's runs are folded in the order of their positions. So a result
// depends on the shard's contents, the visible range and the selections alone: not on the number of threads, nor on
// what else is in the batch.
//
// Each thread has a share of the items, equal in bytes and contiguous in memory; who is done first
// takes from the others' shares, so that a core that another process uses delays one item, not the
// step.
//
// Hot path: Execute() allocates nothing, takes no lock of its own and makes no system call but the
// thread pool's waking.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "attention/merge.h"
#include "attention/partial.h"
#include "attention/token_range.h"
#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "cpu_attention_service/executor/item_range.h"
#include "cpu_attention_service/kernels/kernels.h"
#include "kv_store/context_cache.h"
#include "kv_store/kv_shard.h"

namespace tributary {

// What one KV head reads for a query.
struct HeadRead {
  enum class Source : uint8_t {
    kShard,    // the query's `local` tokens
    kCache,    // `rows` of its context cache
    kNothing,  // its part of the partial is not touched
  };
  Source source = Source::kShard;
  TokenRange rows;
  // If not empty, AddWeights() adds the softmax weight of each token read, aggregated over the head's group and summed
  // over the query tokens; [tokens read]. Unshared.
  std::span<float> weights;
};

// One sequence's query against one layer of one shard. Borrowed memory, until Execute() returns.
struct ShardQuery {
  const KvShard* shard = nullptr;
  uint32_t layer = 0;
  TokenRange local;              // stripe-local; end <= shard->stored_tokens(layer). May be empty.
  uint32_t n_q = 1;              // query tokens
  std::span<const std::byte> q;  // f32 [n_q][num_q_heads held][head_dim], unaligned
  AttentionPartialView partial;  // out [n_q][num_q_heads held][head_dim], lse_ln [n_q][num_q_heads held]
  // Query token i attends to local tokens [local.begin, visible_end[i]), cut at local.end; empty: each to all of
  // `local`.
  std::span<const uint64_t> visible_end;
  // [KV head held]; empty: each reads the shard. With caches visible_end is empty.
  std::span<const HeadRead> heads;
  const ContextCache* cache = nullptr;
  bool max_over_group = false;  // of the weights: the maximum over the group's heads, else the mean
};

struct ShardExecutorOptions {
  int num_threads = 1;       // the caller of Execute() is one of them
  std::vector<int> cpus;     // as of ThreadPool
  int64_t spin_ns = 20'000;  // as of ThreadPool
  const CpuKernel* kernel = &cpu_kernels::Best();
  // A batch with more runs, or larger partials, than these is done in several waves; results do not
  // change.
  uint32_t max_items_per_wave = 8192;
  size_t scratch_floats = 2u << 20;
  // Waves that read less stay on the calling thread: waking the others would take longer (about 10
  // us).
  uint64_t min_parallel_bytes = 256u << 10;
  // Called by the calling thread between items, at least every so many bytes of its own: a step may
  // last long, and others wait for answers. Must not touch what the queries refer to.
  std::function<void()> between_items;
  uint64_t between_items_bytes = 1u << 20;
};

// Thread-compatible: one Execute() at a time.
class ShardExecutor {
 public:
  // The smallest scratch_floats that any batch can be done with.
  static constexpr uint32_t kMaxQueriesPerTask = kMaxKernelQueryTokens;
  static constexpr size_t kMinScratchFloats =
      size_t{kMaxQueriesPerTask} * limits::kMaxGroupSize * (limits::kMaxHeadDim + 1);

  // REQUIRES (checked): scratch_floats >= kMinScratchFloats, max_items_per_wave > 0.
  explicit ShardExecutor(const ShardExecutorOptions& options);

  // Fills the partial of each query. REQUIRES: spans of the sizes above; shards that the kernel
  // serves (cpu_kernels::ValidateKernelShape).
  void Execute(std::span<const ShardQuery> queries, float softmax_scale);

  // Adds to the `weights` of each query's heads, after Execute() has filled its partial (lse_ln; q as it was). Reads K
  // again, and nothing else. As deterministic as Execute().
  void AddWeights(std::span<const ShardQuery> queries, float softmax_scale);

  // Calls work(i) for i in [0, count), spread over the threads; different i touch different things. Allocates.
  void ForEach(uint32_t count, const std::function<void(uint32_t)>& work);

  const CpuKernel& kernel() const { return *options_.kernel; }
  int num_threads() const { return pool_.num_threads(); }

 private:
  // The runs of one (query, KV head, up to kMaxQueriesPerTask query tokens) that are in this wave.
  struct Task {
    const ShardQuery* query;
    uint32_t kv_head;
    uint32_t q_begin;
    uint32_t q_count;
    uint32_t first_item;
    uint32_t num_items;
    bool begins;  // its first run is in this wave: nothing carried over
    bool ends;    // its last run is in this wave
  };
  // One run, and where its partial goes: out [q_count][group][head_dim], then lse_ln
  // [q_count][group].
  struct Item {
    uint32_t task;
    uint32_t num_tokens;
    uint64_t local_begin;
    uint64_t cost_begin;  // bytes of the wave before this item
    uint64_t bytes;
    size_t scratch_begin;
  };
  // Where planning goes on.
  struct Cursor {
    size_t query = 0;
    uint32_t kv_head = 0;
    uint32_t q_begin = 0;
    uint64_t pos = 0;
    bool in_task = false;
  };

  void PlanWave(std::span<const ShardQuery> queries, Cursor& cursor);
  void PlanWeights(std::span<const ShardQuery> queries, Cursor& cursor);
  void AddWeightItems(const ShardQuery& query, TokenRange range, Cursor& cursor);
  void RunWave();
  bool PlanTask(const ShardQuery& query, Cursor& cursor);
  void NextTask(const ShardQuery& query, Cursor& cursor) const;
  void SplitOverThreads(int num_threads);
  void RunItems(int thread_idx);
  bool TakeItem(size_t thread, uint32_t* item);
  void RunItem(const Item& item, float* q_buffer);
  void WeighItem(const Item& item, float* q_buffer);
  void CopyQuery(const Task& task, float* q_buffer) const;
  DecodeAttentionArgs ArgsOf(const Task& task, const KvRun& run) const;
  void FoldTask(const Task& task);

  const ShardExecutorOptions options_;
  ThreadPool pool_;
  const std::function<void(int)> run_items_;
  float softmax_scale_ = 0;
  bool weighing_ = false;  // AddWeights() is under way

  std::vector<Task> tasks_;
  std::vector<Item> items_;
  std::unique_ptr<std::atomic<uint32_t>[]> pending_items_;  // [task]; who takes the last one folds the task
  std::vector<ItemRange> thread_items_;
  uint64_t wave_bytes_ = 0;
  size_t scratch_used_ = 0;
  AlignedBuffer<float> scratch_;
  AlignedBuffer<float> q_buffers_;  // [thread][kQBufferFloats]
  // Fold of the one task that a wave leaves unfinished, [q][head of the group]. Read from one,
  // written to the other, since both ends of a wave may be unfinished tasks.
  std::vector<MergeState> carry_in_;
  std::vector<MergeState> carry_out_;
};

}  // namespace tributary

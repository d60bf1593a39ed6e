// Attention of a batch of queries over shards, spread over the cores.
//
// The work of one query is cut at fixed places: per KV head, and per run of the shard (KvShard::RunAt) or of its row
// cache, an extent, or per 64 pieces of a list. The partials of one head are folded in the order of head_read.h. So a
// result depends on the shard's contents and on what is read alone: not on the number of threads, nor on what else is
// in the batch.
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
#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "cpu_attention_service/executor/item_range.h"
#include "cpu_attention_service/executor/read_units.h"
#include "cpu_attention_service/executor/shard_query.h"
#include "cpu_attention_service/kernels/kernels.h"

namespace tributary {

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
  void Execute(std::span<const ShardQuery> queries, float softmax_scale, float soft_cap = 0);

  // Adds to the `weights` of each query's heads, after Execute() has filled its partial (lse_ln; q as it was). Reads K
  // again, and nothing else. As deterministic as Execute().
  void AddWeights(std::span<const ShardQuery> queries, float softmax_scale, float soft_cap = 0);

  // Calls work(i) for i in [0, count), spread over the threads; different i touch different things. Allocates.
  void ForEach(uint32_t count, const std::function<void(uint32_t)>& work);

  const CpuKernel& kernel() const { return *options_.kernel; }
  int num_threads() const { return pool_.num_threads(); }

 private:
  // The items of one (query, KV head, up to kMaxQueriesPerTask query tokens) that are in this wave.
  struct Task {
    const ShardQuery* query;
    uint32_t kv_head;
    uint32_t q_begin;
    uint32_t q_count;
    uint32_t first_item;
    uint32_t num_items;
    bool begins;  // its first item is in this wave: nothing carried over
    bool ends;    // its last item is in this wave
  };
  // One run or some pieces, and where the partial goes: out [q_count][group][head_dim], then lse_ln [q_count][group].
  struct Item {
    uint32_t task;
    ReadSource source;
    uint32_t num_units;
    uint64_t unit_begin;
    uint64_t cost_begin;  // bytes of the wave before this item
    uint64_t bytes;
    size_t scratch_begin;
    uint64_t first_rank;  // of weighted tokens: how many of the list come before the item's
  };
  // Where planning goes on.
  struct Cursor {
    size_t query = 0;
    uint32_t kv_head = 0;
    uint32_t q_begin = 0;
    ReadSource source = ReadSource::kTokens;
    uint64_t pos = 0;
    uint64_t rank = 0;
    bool in_task = false;
  };

  static void GoToSource(const ShardQuery& query, ReadSource source, Cursor& cursor);
  void PlanWave(std::span<const ShardQuery> queries, Cursor& cursor);
  void PlanWeights(std::span<const ShardQuery> queries, Cursor& cursor);
  void AddWeightItems(const ShardQuery& query, Cursor& cursor);
  void RunWave();
  bool PlanTask(const ShardQuery& query, Cursor& cursor);
  void NextTask(const ShardQuery& query, Cursor& cursor) const;
  void AddItem(const ShardQuery& query, uint32_t num_rows, Cursor& cursor);
  void SplitOverThreads(int num_threads);
  void RunItems(int thread_idx);
  bool TakeItem(size_t thread, uint32_t* item);
  void RunItem(const Item& item, float* q_buffer);
  void RunPieces(const Item& item, DecodeAttentionArgs& args) const;
  void RunWeighted(const Item& item, DecodeAttentionArgs& args) const;
  void PlacePieces(const Item& item, std::span<const ReadPiece> pieces, KvPiece* placed) const;
  void WeighItem(const Item& item, float* q_buffer);
  void CopyQuery(const Task& task, float* q_buffer) const;
  DecodeAttentionArgs ArgsOf(const Task& task) const;
  // The run of an item of tokens or rows; its first token (row) has the number that it returns.
  static uint64_t SetRun(const Task& task, const Item& item, DecodeAttentionArgs& args);
  void FoldTask(const Task& task);

  const ShardExecutorOptions options_;
  ThreadPool pool_;
  const std::function<void(int)> run_items_;
  float softmax_scale_ = 0;
  float soft_cap_ = 0;     // DecodeAttentionArgs
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

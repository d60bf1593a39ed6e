#include "cpu_attention_service/executor/shard_executor.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/limits.h"

namespace tributary {
namespace {

// A task's query rows, aligned; on cache lines of their own.
constexpr size_t kQBufferFloats =
    size_t{ShardExecutor::kMaxQueriesPerTask} * limits::kMaxGroupSize * limits::kMaxHeadDim;
// Query rows for which a kernel reads KV once.
constexpr uint32_t kRowsPerRead = 64;

void WriteEmpty(const AttentionPartialView& partial) {
  std::fill(partial.out.begin(), partial.out.end(), 0.0f);
  std::fill(partial.lse_ln.begin(), partial.lse_ln.end(), kEmptyLse);
}

// Of one KV head, for all query tokens.
void WriteEmptyHead(const ShardQuery& query, uint32_t kv_head) {
  const ShardSpec& spec = query.shard->spec();
  const uint32_t group_size = spec.model.group_size();
  const size_t head_dim = spec.model.head_dim;
  for (uint32_t i = 0; i < query.n_q; ++i) {
    const size_t head = size_t{i} * spec.num_q_heads_held() + size_t{kv_head} * group_size;
    WriteEmpty({query.partial.out.subspan(head * head_dim, group_size * head_dim),
                query.partial.lse_ln.subspan(head, group_size)});
  }
}

HeadRead ReadOf(const ShardQuery& query, uint32_t kv_head) {
  return query.heads.empty() ? HeadRead{} : query.heads[kv_head];
}

// What is read: tokens of the shard, or rows of the cache.
TokenRange RangeOf(const ShardQuery& query, const HeadRead& head) {
  return head.source == HeadRead::Source::kShard ? query.local : head.rows;
}

uint64_t RunTokens(const ShardQuery& query, const HeadRead& head) {
  return head.source == HeadRead::Source::kShard ? query.shard->tokens_per_run() : query.cache->rows_per_run();
}

KvRun RunOf(const ShardQuery& query, uint32_t kv_head, uint64_t begin, uint64_t end) {
  return ReadOf(query, kv_head).source == HeadRead::Source::kShard
             ? query.shard->RunAt(query.layer, kv_head, begin, end)
             : query.cache->RunAt(query.layer, kv_head, begin, end);
}

}  // namespace

ShardExecutor::ShardExecutor(const ShardExecutorOptions& options)
    : options_(options),
      pool_(options.num_threads, options.cpus, options.spin_ns),
      run_items_([this](int thread_idx) { RunItems(thread_idx); }),
      pending_items_(std::make_unique<std::atomic<uint32_t>[]>(options.max_items_per_wave)),
      thread_items_(static_cast<size_t>(options.num_threads)),
      scratch_(options.scratch_floats),
      q_buffers_(static_cast<size_t>(options.num_threads) * kQBufferFloats),
      carry_in_(size_t{kMaxQueriesPerTask} * limits::kMaxGroupSize),
      carry_out_(carry_in_.size()) {
  TRIBUTARY_CHECK_GE(options.scratch_floats, kMinScratchFloats);
  TRIBUTARY_CHECK_GT(options.max_items_per_wave, 0u);
  tasks_.reserve(options.max_items_per_wave);
  items_.reserve(options.max_items_per_wave);
}

void ShardExecutor::Execute(std::span<const ShardQuery> queries, float softmax_scale) {
  softmax_scale_ = softmax_scale;
  weighing_ = false;
  Cursor cursor;
  while (cursor.query < queries.size()) {
    PlanWave(queries, cursor);
    RunWave();
    std::swap(carry_in_, carry_out_);
  }
}

void ShardExecutor::AddWeights(std::span<const ShardQuery> queries, float softmax_scale) {
  softmax_scale_ = softmax_scale;
  weighing_ = true;
  Cursor cursor;
  while (cursor.query < queries.size()) {
    PlanWeights(queries, cursor);
    RunWave();
  }
}

void ShardExecutor::RunWave() {
  if (items_.empty()) return;
  if (wave_bytes_ < options_.min_parallel_bytes) {
    SplitOverThreads(1);
    RunItems(0);
  } else {
    SplitOverThreads(pool_.num_threads());
    pool_.RunWithHelpers(run_items_);
  }
}

// Takes tasks, whole or in part, until the wave is full or the batch is at its end.
void ShardExecutor::PlanWave(std::span<const ShardQuery> queries, Cursor& cursor) {
  tasks_.clear();
  items_.clear();
  wave_bytes_ = 0;
  scratch_used_ = 0;
  while (cursor.query < queries.size()) {
    const ShardQuery& query = queries[cursor.query];
    if (query.local.empty()) {
      WriteEmpty(query.partial);
      ++cursor.query;
    } else if (!PlanTask(query, cursor)) {
      return;
    }
  }
}

// Adds the runs of the task at the cursor. False if the wave became full before the task's end.
bool ShardExecutor::PlanTask(const ShardQuery& query, Cursor& cursor) {
  const ShardSpec& spec = query.shard->spec();
  const uint32_t head_dim = spec.model.head_dim;
  const HeadRead head = ReadOf(query, cursor.kv_head);
  const TokenRange range = RangeOf(query, head);
  if (range.empty() || head.source == HeadRead::Source::kNothing) {
    if (head.source != HeadRead::Source::kNothing) WriteEmptyHead(query, cursor.kv_head);
    cursor.q_begin = query.n_q;  // of all its query tokens
    NextTask(query, cursor);
    return true;
  }
  Task task{};
  task.query = &query;
  task.kv_head = cursor.kv_head;
  task.q_begin = cursor.q_begin;
  task.q_count = std::min(kMaxQueriesPerTask, query.n_q - cursor.q_begin);
  task.first_item = static_cast<uint32_t>(items_.size());
  task.begins = !cursor.in_task;
  if (task.begins) cursor.pos = range.begin;
  cursor.in_task = true;

  const size_t partial_floats = size_t{task.q_count} * spec.model.group_size() * (head_dim + 1);
  const uint32_t num_rows = task.q_count * spec.model.group_size();
  const uint64_t tile_reads = (num_rows + kRowsPerRead - 1) / kRowsPerRead;
  const uint64_t run_tokens = RunTokens(query, head);
  while (cursor.pos < range.end && items_.size() < options_.max_items_per_wave &&
         scratch_used_ + partial_floats <= scratch_.size()) {
    const uint64_t run_end = std::min(range.end, (cursor.pos / run_tokens + 1) * run_tokens);
    const uint32_t num_tokens = static_cast<uint32_t>(run_end - cursor.pos);
    const uint64_t bytes = num_tokens * tile_reads * query.shard->tile_layout().record_bytes / kKvTileTokens;
    items_.push_back({static_cast<uint32_t>(tasks_.size()), num_tokens, cursor.pos, wave_bytes_, bytes, scratch_used_});
    wave_bytes_ += bytes;
    scratch_used_ += partial_floats;
    cursor.pos = run_end;
  }
  task.num_items = static_cast<uint32_t>(items_.size()) - task.first_item;
  task.ends = cursor.pos == range.end;
  if (task.num_items > 0) {
    pending_items_[tasks_.size()].store(task.num_items, std::memory_order_relaxed);
    tasks_.push_back(task);
  } else {
    cursor.in_task = !task.begins;  // the next wave begins, or goes on with, this task
  }
  if (!task.ends) return false;
  NextTask(query, cursor);
  return true;
}

// Items of as many heads with weights as fit into a wave. One item does all query tokens, since they add to the same
// weights.
void ShardExecutor::PlanWeights(std::span<const ShardQuery> queries, Cursor& cursor) {
  tasks_.clear();
  items_.clear();
  wave_bytes_ = 0;
  for (; cursor.query < queries.size(); ++cursor.query, cursor.kv_head = 0) {
    const ShardQuery& query = queries[cursor.query];
    for (; cursor.kv_head < query.heads.size(); ++cursor.kv_head, cursor.in_task = false) {
      const HeadRead& head = query.heads[cursor.kv_head];
      if (head.weights.empty()) continue;
      const TokenRange range = RangeOf(query, head);
      TRIBUTARY_CHECK_EQ(head.weights.size(), range.size());
      if (!cursor.in_task) cursor.pos = range.begin;
      cursor.in_task = true;
      AddWeightItems(query, range, cursor);
      if (cursor.pos < range.end) return;  // the wave is full
    }
  }
}

void ShardExecutor::AddWeightItems(const ShardQuery& query, TokenRange range, Cursor& cursor) {
  const uint64_t run_tokens = RunTokens(query, query.heads[cursor.kv_head]);
  const uint32_t num_rows = query.n_q * query.shard->spec().model.group_size();
  const uint64_t tile_reads = (num_rows + kRowsPerRead - 1) / kRowsPerRead;
  const uint64_t token_bytes = query.shard->tile_layout().v_begin / kKvTileTokens * tile_reads;
  const auto task = static_cast<uint32_t>(tasks_.size());
  while (cursor.pos < range.end && items_.size() < options_.max_items_per_wave) {
    const uint64_t run_end = std::min(range.end, (cursor.pos / run_tokens + 1) * run_tokens);
    const auto num_tokens = static_cast<uint32_t>(run_end - cursor.pos);
    items_.push_back({task, num_tokens, cursor.pos, wave_bytes_, num_tokens * token_bytes, 0});
    wave_bytes_ += items_.back().bytes;
    cursor.pos = run_end;
  }
  Task added{};
  added.query = &query;
  added.kv_head = cursor.kv_head;
  tasks_.push_back(added);
}

void ShardExecutor::NextTask(const ShardQuery& query, Cursor& cursor) const {
  cursor.in_task = false;
  cursor.q_begin += kMaxQueriesPerTask;
  if (cursor.q_begin < query.n_q) return;
  cursor.q_begin = 0;
  if (++cursor.kv_head < query.shard->spec().num_kv_heads_held()) return;
  cursor.kv_head = 0;
  ++cursor.query;
}

// Contiguous ranges of items of about equal bytes, for the first `num_threads` threads. Item i
// belongs to the thread in whose share its first byte lies.
void ShardExecutor::SplitOverThreads(int num_threads) {
  const size_t threads = static_cast<size_t>(num_threads);
  const uint32_t num_items = static_cast<uint32_t>(items_.size());
  uint32_t begin = 0;
  for (size_t thread = 0; thread < thread_items_.size(); ++thread) {
    uint32_t end = begin;
    if (thread + 1 == threads) {
      end = num_items;
    } else if (thread + 1 < threads) {
      const uint64_t share_end = wave_bytes_ / threads * (thread + 1);
      while (end < num_items && items_[end].cost_begin < share_end) ++end;
    }
    thread_items_[thread].Set(begin, end);
    begin = end;
  }
}

void ShardExecutor::ForEach(uint32_t count, const std::function<void(uint32_t)>& work) {
  const auto threads = static_cast<uint32_t>(thread_items_.size());
  for (uint32_t thread = 0; thread < threads; ++thread) {
    thread_items_[thread].Set(count * thread / threads, count * (thread + 1) / threads);
  }
  pool_.RunWithHelpers([&](int thread_idx) {
    for (uint32_t i; TakeItem(static_cast<size_t>(thread_idx), &i);) work(i);
  });
}

// The thread's own next item, or else the last one of who has most left.
bool ShardExecutor::TakeItem(size_t thread, uint32_t* item) {
  if (thread_items_[thread].TakeFirst(item)) return true;
  while (true) {
    ItemRange* longest = nullptr;
    uint32_t longest_size = 0;
    for (ItemRange& items : thread_items_) {
      if (const uint32_t size = items.size(); size > longest_size) {
        longest = &items;
        longest_size = size;
      }
    }
    if (longest == nullptr) return false;
    if (longest->TakeLast(item)) return true;
  }
}

void ShardExecutor::RunItems(int thread_idx) {
  const size_t thread = static_cast<size_t>(thread_idx);
  float* q_buffer = q_buffers_.data() + thread * kQBufferFloats;
  uint64_t bytes = 0;
  for (uint32_t i; TakeItem(thread, &i);) {
    if (weighing_) {
      WeighItem(items_[i], q_buffer);
    } else {
      RunItem(items_[i], q_buffer);
      // The release half publishes this item's partial, the acquire half shows the others' to who
      // folds.
      if (pending_items_[items_[i].task].fetch_sub(1, std::memory_order_acq_rel) == 1) {
        FoldTask(tasks_[items_[i].task]);
      }
    }
    if (thread != 0 || !options_.between_items) continue;
    bytes += items_[i].bytes;
    if (bytes < options_.between_items_bytes) continue;
    bytes = 0;
    options_.between_items();
  }
}

// The query rows of the task's KV head.
void ShardExecutor::CopyQuery(const Task& task, float* q_buffer) const {
  const ShardSpec& spec = task.query->shard->spec();
  const uint32_t group_size = spec.model.group_size();
  const size_t group_floats = size_t{group_size} * spec.model.head_dim;
  for (uint32_t i = 0; i < task.q_count; ++i) {
    const size_t first_head = size_t{task.q_begin + i} * spec.num_q_heads_held() + size_t{task.kv_head} * group_size;
    std::memcpy(q_buffer + i * group_floats, task.query->q.data() + first_head * spec.model.head_dim * sizeof(float),
                group_floats * sizeof(float));
  }
}

// All but q, out, lse_ln and visible_end.
DecodeAttentionArgs ShardExecutor::ArgsOf(const Task& task, const KvRun& run) const {
  DecodeAttentionArgs args;
  args.n_q = task.q_count;
  args.group_size = task.query->shard->spec().model.group_size();
  args.layout = &task.query->shard->tile_layout();
  args.tiles = run.tiles;
  args.token_begin = run.token_begin;
  args.token_end = run.token_end;
  args.prefetch_bytes = cpu_kernels::RunPrefetchBytes(args.layout->k_storage, args.n_q * args.group_size);
  args.softmax_scale = softmax_scale_;
  return args;
}

void ShardExecutor::RunItem(const Item& item, float* q_buffer) {
  const Task& task = tasks_[item.task];
  const ShardQuery& query = *task.query;
  const KvRun run = RunOf(query, task.kv_head, item.local_begin, item.local_begin + item.num_tokens);
  CopyQuery(task, q_buffer);
  DecodeAttentionArgs args = ArgsOf(task, run);
  uint64_t visible_end[kMaxQueriesPerTask];
  if (!query.visible_end.empty()) {
    for (uint32_t i = 0; i < task.q_count; ++i) {
      const uint64_t local_end = std::max(query.visible_end[task.q_begin + i], run.first_token);
      visible_end[i] = std::min<uint64_t>(local_end - run.first_token, run.token_end);
    }
    args.visible_end = visible_end;
  }
  args.q = q_buffer;
  args.out = scratch_.data() + item.scratch_begin;
  args.lse_ln = args.out + size_t{task.q_count} * args.group_size * query.shard->spec().model.head_dim;
  options_.kernel->fn(args);
}

void ShardExecutor::WeighItem(const Item& item, float* q_buffer) {
  Task task = tasks_[item.task];
  const ShardQuery& query = *task.query;
  const ShardSpec& spec = query.shard->spec();
  const uint32_t group_size = spec.model.group_size();
  const HeadRead& head = query.heads[task.kv_head];
  const KvRun run = RunOf(query, task.kv_head, item.local_begin, item.local_begin + item.num_tokens);
  float lse_ln[kMaxQueriesPerTask * limits::kMaxGroupSize];
  for (task.q_begin = 0; task.q_begin < query.n_q; task.q_begin += kMaxQueriesPerTask) {
    task.q_count = std::min(kMaxQueriesPerTask, query.n_q - task.q_begin);
    CopyQuery(task, q_buffer);
    for (uint32_t i = 0; i < task.q_count; ++i) {
      const size_t first_head = size_t{task.q_begin + i} * spec.num_q_heads_held() + size_t{task.kv_head} * group_size;
      std::copy_n(query.partial.lse_ln.data() + first_head, group_size, lse_ln + i * group_size);
    }
    DecodeAttentionArgs args = ArgsOf(task, run);
    args.q = q_buffer;
    args.lse_ln = lse_ln;
    args.token_weights = head.weights.data() + (item.local_begin - RangeOf(query, head).begin);
    args.max_over_group = query.max_over_group;
    options_.kernel->fn(args);
  }
}

void ShardExecutor::FoldTask(const Task& task) {
  const ShardSpec& spec = task.query->shard->spec();
  const uint32_t group_size = spec.model.group_size();
  const uint32_t head_dim = spec.model.head_dim;
  const uint32_t num_rows = task.q_count * group_size;
  for (uint32_t row = 0; row < num_rows; ++row) {
    const size_t head = size_t{task.q_begin + row / group_size} * spec.num_q_heads_held() +
                        size_t{task.kv_head} * group_size + row % group_size;
    float* out = task.query->partial.out.data() + head * head_dim;
    MergeState state;
    if (task.begins) {
      std::fill_n(out, head_dim, 0.0f);
    } else {
      state = carry_in_[row];
    }
    for (uint32_t i = 0; i < task.num_items; ++i) {
      const float* partial = scratch_.data() + items_[task.first_item + i].scratch_begin;
      const MergeWeights weights = state.Fold(partial[size_t{num_rows} * head_dim + row]);
      const float* add = partial + size_t{row} * head_dim;
      for (uint32_t d = 0; d < head_dim; ++d) out[d] = out[d] * weights.keep + add[d] * weights.add;
    }
    if (task.ends) {
      const float normaliser = state.Normaliser();
      for (uint32_t d = 0; d < head_dim; ++d) out[d] *= normaliser;
      task.query->partial.lse_ln[head] = state.LseLn();
    } else {
      carry_out_[row] = state;
    }
  }
}

}  // namespace tributary

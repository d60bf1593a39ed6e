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

void ShardExecutor::Execute(std::span<const ShardQuery> queries, float softmax_scale, float soft_cap) {
  softmax_scale_ = softmax_scale;
  soft_cap_ = soft_cap;
  weighing_ = false;
  Cursor cursor;
  while (cursor.query < queries.size()) {
    PlanWave(queries, cursor);
    RunWave();
    std::swap(carry_in_, carry_out_);
  }
}

void ShardExecutor::AddWeights(std::span<const ShardQuery> queries, float softmax_scale, float soft_cap) {
  softmax_scale_ = softmax_scale;
  soft_cap_ = soft_cap;
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

// Moves the cursor to the next source that has anything, from `source` on.
void ShardExecutor::GoToSource(const ShardQuery& query, ReadSource source, Cursor& cursor) {
  for (; source != ReadSource::kNone; source = static_cast<ReadSource>(static_cast<uint8_t>(source) + 1)) {
    const ReadUnits units = UnitsOf(query, cursor.kv_head, source);
    if (units.begin >= units.end) continue;
    cursor.pos = units.begin;
    break;
  }
  cursor.source = source;
  cursor.rank = 0;
}

// Adds the items of the task at the cursor. False if the wave became full before the task's end.
bool ShardExecutor::PlanTask(const ShardQuery& query, Cursor& cursor) {
  if (!cursor.in_task) {
    const HeadRead* head = ReadOf(query, cursor.kv_head);
    const bool is_untouched = head != nullptr && head->is_untouched;
    GoToSource(query, is_untouched ? ReadSource::kNone : ReadSource::kTokens, cursor);
    if (cursor.source == ReadSource::kNone) {
      if (!is_untouched) WriteEmptyHead(query, cursor.kv_head);
      cursor.q_begin = query.n_q;  // of all its query tokens
      NextTask(query, cursor);
      return true;
    }
  }
  Task task{};
  task.query = &query;
  task.kv_head = cursor.kv_head;
  task.q_begin = cursor.q_begin;
  task.q_count = std::min(kMaxQueriesPerTask, query.n_q - cursor.q_begin);
  task.first_item = static_cast<uint32_t>(items_.size());
  task.begins = !cursor.in_task;
  cursor.in_task = true;
  const uint32_t num_rows = task.q_count * query.shard->spec().model.group_size();
  const size_t partial_floats = size_t{num_rows} * (query.shard->spec().model.head_dim + 1);
  while (cursor.source != ReadSource::kNone && items_.size() < options_.max_items_per_wave &&
         scratch_used_ + partial_floats <= scratch_.size()) {
    AddItem(query, num_rows, cursor);
    scratch_used_ += partial_floats;
  }
  task.num_items = static_cast<uint32_t>(items_.size()) - task.first_item;
  task.ends = cursor.source == ReadSource::kNone;
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

// The item at the cursor, of the task that is added next; its partial comes where the scratch in use ends.
void ShardExecutor::AddItem(const ShardQuery& query, uint32_t num_rows, Cursor& cursor) {
  const ReadUnits units = UnitsOf(query, cursor.kv_head, cursor.source);
  const uint64_t tile_reads = (num_rows + kRowsPerRead - 1) / kRowsPerRead;
  const uint64_t end = units.ItemEnd(cursor.pos);
  Item item{};
  item.task = static_cast<uint32_t>(tasks_.size());
  item.source = cursor.source;
  item.num_units = static_cast<uint32_t>(end - cursor.pos);
  item.unit_begin = cursor.pos;
  item.cost_begin = wave_bytes_;
  item.bytes = tile_reads * BytesOf(query, cursor.kv_head, cursor.source, {cursor.pos, end});
  item.scratch_begin = scratch_used_;
  item.first_rank = cursor.rank;
  items_.push_back(item);
  wave_bytes_ += item.bytes;
  if (cursor.source == ReadSource::kWeighted) {
    const auto pieces = query.heads[cursor.kv_head].weighted.pieces;
    cursor.rank += CountTokens(pieces.subspan(item.unit_begin, item.num_units));
  }
  cursor.pos = end;
  if (end == units.end) GoToSource(query, static_cast<ReadSource>(static_cast<uint8_t>(cursor.source) + 1), cursor);
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
      TRIBUTARY_CHECK_EQ(head.weights.size(), head.NumTokens());
      TRIBUTARY_CHECK(head.pieces.pieces.empty() && head.weighted.pieces.empty());
      if (!cursor.in_task) GoToSource(query, ReadSource::kTokens, cursor);
      cursor.in_task = true;
      AddWeightItems(query, cursor);
      if (cursor.source != ReadSource::kNone) return;  // the wave is full
    }
  }
}

void ShardExecutor::AddWeightItems(const ShardQuery& query, Cursor& cursor) {
  const uint32_t num_rows = query.n_q * query.shard->spec().model.group_size();
  const uint64_t tile_reads = (num_rows + kRowsPerRead - 1) / kRowsPerRead;
  const uint64_t token_bytes = query.shard->tile_layout().v_begin / kKvTileTokens * tile_reads;
  while (cursor.source != ReadSource::kNone && items_.size() < options_.max_items_per_wave) {
    AddItem(query, num_rows, cursor);
    // Of K alone.
    Item& item = items_.back();
    wave_bytes_ = item.cost_begin + item.num_units * token_bytes;
    item.bytes = wave_bytes_ - item.cost_begin;
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

// What all items of a task have in common, but for q, out and lse_ln.
DecodeAttentionArgs ShardExecutor::ArgsOf(const Task& task) const {
  DecodeAttentionArgs args;
  args.n_q = task.q_count;
  args.group_size = task.query->shard->spec().model.group_size();
  args.layout = &task.query->shard->tile_layout();
  args.softmax_scale = softmax_scale_;
  args.soft_cap = soft_cap_;
  return args;
}

uint64_t ShardExecutor::SetRun(const Task& task, const Item& item, DecodeAttentionArgs& args) {
  const ShardQuery& query = *task.query;
  const uint64_t end = item.unit_begin + item.num_units;
  const KvRun run = item.source == ReadSource::kTokens
                        ? query.shard->RunAt(query.layer, task.kv_head, item.unit_begin, end)
                        : query.cache->RunAt(query.layer, task.kv_head, item.unit_begin, end);
  args.tiles = run.tiles;
  args.token_begin = run.token_begin;
  args.token_end = run.token_end;
  args.prefetch_bytes = cpu_kernels::RunPrefetchBytes(args.layout->k_storage, args.n_q * args.group_size);
  return run.first_token;
}

void ShardExecutor::RunItem(const Item& item, float* q_buffer) {
  const Task& task = tasks_[item.task];
  const ShardQuery& query = *task.query;
  DecodeAttentionArgs args = ArgsOf(task);
  args.q = q_buffer;
  args.out = scratch_.data() + item.scratch_begin;
  args.lse_ln = args.out + size_t{task.q_count} * args.group_size * query.shard->spec().model.head_dim;
  if (item.source == ReadSource::kWeighted) {
    RunWeighted(item, args);
    return;
  }
  CopyQuery(task, q_buffer);
  if (item.source == ReadSource::kPieces) {
    RunPieces(item, args);
    return;
  }
  const uint64_t first_token = SetRun(task, item, args);
  uint64_t visible_end[kMaxQueriesPerTask];
  if (!query.visible_end.empty()) {
    for (uint32_t i = 0; i < task.q_count; ++i) {
      const uint64_t local_end = std::max(query.visible_end[task.q_begin + i], first_token);
      visible_end[i] = std::min<uint64_t>(local_end - first_token, args.token_end);
    }
    args.visible_end = visible_end;
  }
  options_.kernel->fn(args);
}

// Where the item's pieces lie.
void ShardExecutor::PlacePieces(const Item& item, std::span<const ReadPiece> pieces, KvPiece* placed) const {
  const Task& task = tasks_[item.task];
  const ShardQuery& query = *task.query;
  for (uint32_t i = 0; i < item.num_units; ++i) {
    const ReadPiece& piece = pieces[item.unit_begin + i];
    placed[i].tile = query.shard->TileAt(query.layer, task.kv_head, piece.tile);
    placed[i].token_mask = piece.token_mask;
    placed[i].first_position = piece.tile * kKvTileTokens;
  }
}

void ShardExecutor::RunPieces(const Item& item, DecodeAttentionArgs& args) const {
  const Task& task = tasks_[item.task];
  const ShardQuery& query = *task.query;
  const PieceList& list = query.heads[task.kv_head].pieces;
  KvPiece placed[kPiecesPerItem];
  PlacePieces(item, list.pieces, placed);
  args.pieces = placed;
  args.num_pieces = item.num_units;
  if (!list.row_masks.empty()) {
    args.row_mask_stride = query.n_q * args.group_size;
    args.row_masks =
        list.row_masks.data() + item.unit_begin * args.row_mask_stride + size_t{task.q_begin} * args.group_size;
  }
  if (!query.visible_end.empty()) args.visible_end = query.visible_end.data() + task.q_begin;
  options_.kernel->fn(args);
}

void ShardExecutor::RunWeighted(const Item& item, DecodeAttentionArgs& args) const {
  const Task& task = tasks_[item.task];
  const ShardQuery& query = *task.query;
  const WeightedTokens& list = query.heads[task.kv_head].weighted;
  KvPiece placed[kPiecesPerItem];
  PlacePieces(item, list.pieces, placed);
  args.pieces = placed;
  args.num_pieces = item.num_units;
  const uint32_t num_rows = query.n_q * args.group_size;
  const size_t first_row = size_t{task.q_begin} * args.group_size;
  args.given_weight_stride = list.weights.size() / num_rows;
  args.given_weights = list.weights.data() + first_row * args.given_weight_stride + item.first_rank;
  options_.kernel->fn(args);
  if (list.log_scale_ln.empty()) return;
  for (uint32_t row = 0; row < task.q_count * args.group_size; ++row) {
    args.lse_ln[row] += list.log_scale_ln[first_row + row];
  }
}

void ShardExecutor::WeighItem(const Item& item, float* q_buffer) {
  Task task = tasks_[item.task];
  const ShardQuery& query = *task.query;
  const ShardSpec& spec = query.shard->spec();
  const uint32_t group_size = spec.model.group_size();
  const HeadRead& head = query.heads[task.kv_head];
  const uint64_t first_weight = item.source == ReadSource::kTokens
                                    ? item.unit_begin - head.tokens.begin
                                    : head.tokens.size() + item.unit_begin - head.rows.begin;
  float lse_ln[kMaxQueriesPerTask * limits::kMaxGroupSize];
  for (task.q_begin = 0; task.q_begin < query.n_q; task.q_begin += kMaxQueriesPerTask) {
    task.q_count = std::min(kMaxQueriesPerTask, query.n_q - task.q_begin);
    CopyQuery(task, q_buffer);
    for (uint32_t i = 0; i < task.q_count; ++i) {
      const size_t first_head = size_t{task.q_begin + i} * spec.num_q_heads_held() + size_t{task.kv_head} * group_size;
      std::copy_n(query.partial.lse_ln.data() + first_head, group_size, lse_ln + i * group_size);
    }
    DecodeAttentionArgs args = ArgsOf(task);
    SetRun(task, item, args);
    args.q = q_buffer;
    args.lse_ln = lse_ln;
    args.token_weights = head.weights.data() + first_weight;
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

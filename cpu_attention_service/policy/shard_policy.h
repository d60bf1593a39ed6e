// The seat of an attention policy on a node: what it keeps of one shard, and what a query reads of it.
//
// A policy's state lies in cpu_attention_service/policy/NAME/, which registers a factory (shard_policy_seats.h). Of a
// shard, the node's I/O thread calls, in this order:
//
//   CheckSpill, OnStored           a block has come and is stored
//   CheckQuery, PlanRead           a query has come
//   BeginScan, ScanPart, PlanHead  for each KV head, if the plan wants it, on any thread
//   (dense heads, the sample)      ShardFallback completes the plan (shard_fallback.h)
//   (attention)
//   OnSampled                      if the query was to be measured
//   WritePartial                   the partial is there, the answer not yet on its way
//   (the answer is sent; the weights that the plan asked for are computed)
//   AfterAnswer                    if the plan wants it
//
// Frames of one query may hold several shards' queries: their plans are made first, then all are attended to. Two
// queries of one shard never overlap: the second is planned when the first is done with.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <vector>

#include "attention/partial.h"
#include "attention/token_range.h"
#include "cpu_attention_service/executor/head_read.h"
#include "cpu_attention_service/executor/shard_executor.h"
#include "kv_store/row_cache.h"
#include "wire/frame.h"

namespace tributary {

// One query of one layer. Memory is borrowed and stays until AfterAnswer() has returned, but for `section` and
// `dense_heads`, which end with the plan.
struct ReadRequest {
  uint32_t layer = 0;  // absolute, and held
  TokenRange local;    // the visible tokens, stripe-local; all stored
  uint32_t n_q = 1;
  uint32_t flags = 0;  // kQuery... (wire/frame.h)
  float softmax_scale = 0;
  float soft_cap = 0;                      // of scores; 0: none
  std::span<const std::byte> q;            // f32 [n_q][num_q_heads held][head_dim], unaligned
  std::span<const std::byte> section;      // the policy's, of the query; unaligned
  std::span<const std::byte> dense_heads;  // bits of KV heads held (wire/frame.h), unaligned; empty: none

  bool is_measured() const { return (flags & kQueryMeasure) != 0; }
  // The query wants the KV head to be answered by everything.
  bool WantsDense(uint32_t kv_head) const {
    return !dense_heads.empty() && (ReadAt<uint32_t>(dense_heads, kv_head / 32 * 4) >> kv_head % 32 & 1) != 0;
  }
};

// What one query reads. What the spans of its heads point to is the policy's, and stays as it is until the next
// PlanRead or OnStored of the shard.
struct ReadPlan {
  // What AfterAnswer() is for; the node does them in this order, and times each.
  enum class After : uint8_t {
    kNothing,  // it is not called
    kUpdate,   // averages of what was read
    kCollect,  // part of what a selection needs
    kSelect,   // a new selection
  };
  std::vector<HeadRead> answer;  // [KV head held]
  // The second attention of a measured query (ShardFallback): all of `local` for a head whose answer is less, what the
  // policy had chosen for a head that is answered by everything instead. Untouched where the policy leaves nothing out.
  // Empty for other queries, and until the policy has planned.
  std::vector<HeadRead> sample;
  After after = After::kNothing;
  bool max_over_group = false;  // of the weights asked for: the maximum over a group's heads, else the mean
  bool plans_heads = false;     // PlanHead() is called for each KV head before the attention
  uint32_t scan_parts = 0;      // if not 0: before that BeginScan(), then ScanPart() for so many parts
  bool has_selected = false;    // planning has chosen anew, which took its time
};

// Whether a head reads all of `local`, as exact attention does.
bool ReadsAll(const ReadRequest& request, const HeadRead& read);

// Both attentions of a measured query; [n_q][num_q_heads held], out times head_dim. Where the plan has no sample, both
// are the same.
struct SampledPartials {
  ConstAttentionPartialView answer;
  ConstAttentionPartialView sample;
};

// Thread-compatible, but for BeginScan, ScanPart and PlanHead. Sections are bytes from the network: Check... comes
// first.
class ShardPolicy {
 public:
  virtual ~ShardPolicy() = default;

  // What it holds of the pool, beside the shard's own; promised in PolicyNeeds, counted by ShardReservedBytes.
  virtual uint64_t reserved_bytes() const { return 0; }
  // Filled of row_cache(), for a gauge.
  virtual uint64_t cached_row_bytes() const { return 0; }
  // The cache whose rows plans refer to; null if there is none.
  virtual const RowCache* row_cache() const { return nullptr; }

  // kOk, or why a spill of `num_tokens` tokens with this section is refused; nothing is stored then. Empty: the sender
  // says nothing about the tokens, which is always allowed.
  virtual FrameError CheckSpill(uint32_t num_tokens, std::span<const std::byte> section) const;
  // Tokens `local` of `layer` are stored, now or since before.
  virtual void OnStored(uint32_t layer, TokenRange local, std::span<const std::byte> section) = 0;

  // kOk, or why the query is refused.
  virtual FrameError CheckQuery(const ReadRequest& request) const;
  // Bytes of the policy's section in the partial that answers this query. REQUIRES: CheckQuery() is OK.
  virtual uint32_t PartialSectionBytes(const ReadRequest& request) const { return 0; }

  // What the query reads, measured or not. `plan` is one of old, for its memory: every field is to be set (Reset).
  // REQUIRES: as above.
  virtual void PlanRead(const ReadRequest& request, ReadPlan* plan) = 0;
  // The part of the plan that is one KV head's: it sets answer[kv_head] alone. Different heads at the same time, on any
  // thread; allocates nothing. So choices that read memory are spread over the cores.
  //
  // Those that read much are spread further, so that eight heads keep sixteen cores busy: BeginScan of all heads, then
  // ScanPart of each part of all heads, then PlanHead; within each, different heads and parts at the same time.
  virtual void BeginScan(const ReadRequest& request, uint32_t kv_head) {}
  virtual void ScanPart(const ReadRequest& request, uint32_t kv_head, uint32_t part) {}
  virtual void PlanHead(const ReadRequest& request, uint32_t kv_head, ReadPlan* plan) {}

  // A measured query, for a policy that learns from what its selections are worth.
  virtual void OnSampled(const ReadRequest& request, const ReadPlan& plan, const SampledPartials& partials) {}
  // The partial is there, and may still be changed. Fills its section, of PartialSectionBytes, 8-aligned.
  virtual void WritePartial(const ReadRequest& request, const ReadPlan& plan, const AttentionPartialView& partial,
                            std::span<std::byte> section) {}
  // Is called after the answer; the weights that the plan's heads asked for are there. May spread work over the
  // executor's threads.
  virtual void AfterAnswer(const ReadRequest& request, const ReadPlan& plan, ShardExecutor& executor) {}
};

// Sets every field to "each head reads all of `local`".
void ResetToDense(const ReadRequest& request, uint32_t num_kv_heads, ReadPlan* plan);

}  // namespace tributary

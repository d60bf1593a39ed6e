// What a device does for one decode step or one prefill, in the order in which it does it. Two implementations:
// device/host (plain twin, runs anywhere) and device/cuda; same steps, same order, same names.
//
// A decode step of a batch:
//
//   BeginStep(rows)
//   for each layer:
//     AwaitQuery(layer)            rmsnorm, QKV projection, RoPE, append K, V to the resident cache; q is on the host
//       ... the caller scatters q to the CPU nodes ...
//     AttendResident(layer)        attention over sinks + window (a device that runs ahead by itself returns at once)
//       ... the caller gathers remote partials into partial_slots() ...
//     FinishLayer(layer)           merge of resident and remote partials, output projection, MLP
//   EndStep()                      final norm, logits
//
// A prefill is layer-major, so that one layer's KV of the prompt exists at a time: BeginPrefill, then for each layer
// and each chunk Project (QKV of the chunk, K and V into the layer buffer), then for each chunk Attend (causal
// attention, output projection, MLP), while the caller reads the layer's KV (Read) and sends it away; End gives the
// logits of the last token. Decode steps and calls of other prefills may come between any two calls of one: they share
// no state but resident memory.
//
// A sequence's attention policy may keep and compute things of its own on the device: its facet (facet.h), which is
// reserved with the sequence's resident memory and told of what happens to it. A sequence without one costs nothing.
//
// KV is rounded to its storage dtype before any attention reads it, in prefill too: where a token lies changes no
// value. On the host device a row's results do not depend on the other rows of the batch, bit for bit.
//
// Thread-compatible: one thread calls everything.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attention/partial.h"
#include "attention/shape.h"
#include "attention/token_range.h"
#include "base/dtype.h"
#include "base/ids.h"

namespace tributary {

class PolicyFacet;
class SpillSections;
class PolicyParams;

// A sequence's resident KV memory: `capacity_tokens` slots per layer, KV head, K and V. Which token is in which slot is
// the caller's business (gpu_worker/sequence/window_cache.h).
using ResidentId = StrongId<struct ResidentIdTag, uint32_t>;

struct SlotRange {
  uint32_t begin = 0;
  uint32_t end = 0;
};

// Sinks, and the window's ring in at most two pieces.
inline constexpr size_t kMaxSlotRanges = 3;

// How a device that samples chooses a row's next token: the rules of gpu_worker/sequence/sampler.h. What it lacks of
// them, min-p, penalties and biases, the host does with the row's logits.
struct DeviceSampling {
  float temperature = 0;  // 0 = greedy
  float top_p = 0;        // 0 or 1 = off
  uint32_t top_k = 0;     // 0 = off
  uint64_t seed = 0;
  uint64_t position = 0;
};

struct DeviceSample {
  uint32_t token = 0;
  double logprob = 0;  // as SampledToken (gpu_worker/sequence/sampler.h): NaN if the logits are not finite
};

struct DecodeRow {
  uint32_t token = 0;  // input token id
  uint64_t pos = 0;    // its absolute position
  ResidentId resident;
  uint32_t append_slot = 0;  // where this token's K and V go
  // Slots to attend over, this token's included, in token order. Empty ranges are allowed.
  std::array<SlotRange, kMaxSlotRanges> attend{};
  // Likewise for layers whose attention sees a window only.
  std::array<SlotRange, kMaxSlotRanges> attend_windowed{};
  // False: no partials will be merged into this row. A device that runs ahead hands q out only if some row may have
  // them.
  bool may_have_partials = true;
  // True: resident_partial() of the row is asked for in each layer.
  bool wants_resident_partial = false;
  // False: a device that samples may keep the logits to itself, which are 0.5 MB per row of a large vocabulary.
  bool wants_logits = true;
  // Rows of one sequence in one step are successive tokens of it: the last of them says how many there are, the others
  // 0. For facets, which may look at a sequence once per step.
  uint32_t step_tokens = 1;
  DeviceSampling sampling;
};

// Rows and slots of host memory into which remote partials are gathered; FinishLayer() merges slot 0..num_slots-1 after
// the resident partial, in that order. A slot holds one token stripe: routes with disjoint KV heads share it. The
// caller must fill every (row, slot, q_head): lse_ln = -inf where there is nothing.
struct PartialSlots {
  std::span<float> out;     // [max_batch][max_slots][num_q_heads][head_dim]
  std::span<float> lse_ln;  // [max_batch][max_slots][num_q_heads]
  uint32_t max_slots = 0;
};

struct DeviceLimits {
  uint32_t max_batch = 8;
  uint32_t max_partial_slots = 8;
  uint64_t resident_pool_bytes = 0;
  uint32_t max_prefill_tokens = 0;
};

// A stretch of a step by the device's own clock, as times before the end of the step.
struct DeviceSpan {
  const char* name = "";  // static storage
  int32_t layer = -1;
  int64_t begin_ns = 0;  // at most 0
  int64_t end_ns = 0;    // likewise
};

// What the last step was for a device that runs ahead of its caller; all 0 for one that works on the caller's thread.
struct DeviceStepTimes {
  int64_t step_ns = 0;                // from the first to the last thing that the device did
  int64_t remote_wait_ns = 0;         // of which it had nothing to do until the caller had gathered the partials
  std::span<const DeviceSpan> spans;  // valid until the next BeginStep
};

// Resident memory that facets take, by what it holds.
struct PolicyBytes {
  const char* kind = "";  // a word of static storage; labels a metric
  uint64_t bytes = 0;
};

struct DeviceMemory {
  uint64_t resident_pool_bytes = 0;
  uint64_t resident_used_bytes = 0;
  // What policies take of it; kinds that have ever been reserved. Valid until the next reservation.
  std::span<const PolicyBytes> policy_bytes;
};

// What is reserved for a sequence.
struct ResidentSpec {
  uint32_t capacity_tokens = 0;
  DType kv_dtype = DType::kUnset;
  // The policy whose facet comes with it; null: none. Not used after the reservation.
  const PolicyParams* policy = nullptr;
  // The most tokens that the sequence will ever have, for its facet; 0: capacity_tokens.
  uint64_t max_context_tokens = 0;
};

// KV heads [begin, end).
struct HeadRange {
  uint32_t begin = 0;
  uint32_t end = 0;
};

// A copy of KV to host memory. Copies end in the order in which they were started, so of several that make up one thing
// the last one's ticket is enough. 0: it was done when the call returned.
using CopyTicket = uint64_t;

inline constexpr uint32_t kPrefillChunkTokens = 512;

// The prefill of one prompt. Frees its memory when it is destroyed, early (cancelled) or after End().
class Prefill {
 public:
  virtual ~Prefill() = default;

  // Chunks are token ranges of at most kPrefillChunkTokens; all chunks of a layer are projected before any attends.
  virtual void Project(uint32_t layer, uint64_t token_begin, uint64_t token_end) = 0;
  virtual void Attend(uint32_t layer, uint64_t token_begin, uint64_t token_end) = 0;
  // Copies tokens of the layer last projected out, post-RoPE, as Device::ReadResident does. A copy that was started
  // before the next layer's first Project (or the end of the prefill) is not disturbed by it.
  virtual CopyTicket Read(uint64_t token_begin, uint32_t num_tokens, HeadRange heads, std::span<std::byte> k,
                          std::span<std::byte> v) = 0;
  // Copies tokens of the layer last projected into resident slots.
  virtual void Keep(uint32_t layer, ResidentId id, uint64_t token_begin, SlotRange slots) = 0;
  // Tokens of the layer last projected, all of it, go to the shards and will never be resident: what the sequence's
  // facet has to say of them, or null. As Read, before the next layer is projected. REQUIRES: the sequence has one.
  virtual std::unique_ptr<const SpillSections> Leave(uint32_t layer, ResidentId id, TokenRange tokens);
  // Logits of the last token, f32 [vocab_size], valid until another prefill ends.
  virtual std::span<const float> End() = 0;
};

// What every device asks of a prompt; INVALID_ARGUMENT with the value.
absl::Status ValidatePrompt(std::span<const uint32_t> tokens, DType kv_dtype, uint32_t max_prefill_tokens,
                            uint32_t vocab_size);

// Tokens of all prompts that are prefilled at the same time, at most: beside a longest one some shorter ones find room.
// Devices keep memory for as many.
constexpr uint64_t MaxPrefillTokensAtOnce(const DeviceLimits& limits) {
  return uint64_t{limits.max_prefill_tokens} + limits.max_prefill_tokens / 8;
}

class Device {
 public:
  virtual ~Device() = default;

  virtual const DeviceLimits& limits() const = 0;
  virtual DeviceMemory memory() const = 0;
  // One KV token of one layer, K and V, all KV heads, times layers: for capacity arithmetic.
  virtual uint64_t KvBytesPerToken(DType kv_dtype) const = 0;

  // RESOURCE_EXHAUSTED with the needed and the free bytes when the pool is full; UNIMPLEMENTED for a policy that this
  // device has no seat for.
  virtual absl::StatusOr<ResidentId> ReserveResident(const ResidentSpec& spec) = 0;
  virtual void ReleaseResident(ResidentId id) = 0;

  // The facet that was reserved with it, until it is released; null: there is none.
  virtual PolicyFacet* facet(ResidentId id) { return nullptr; }

  // Copies of KV out of the device, which go on beside everything else it does. k and v receive
  // [token][heads][head_dim] in the KV dtype (the canonical layout of these heads) and must stay until
  // CopyDone(ticket), which a broken device answers, too. What a step appended to a layer can be read once
  // AwaitQuery(layer) has returned.
  virtual CopyTicket ReadResident(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads,
                                  std::span<std::byte> k, std::span<std::byte> v) = 0;
  virtual bool CopyDone(CopyTicket ticket) { return true; }
  // Host memory that will often be copied into; it stays for the device's life. A device may pin it, which makes copies
  // faster; nothing changes otherwise.
  virtual void PinHostMemory(std::span<std::byte> memory) {}

  // Decode. REQUIRES: 1 <= rows.size() <= max_batch; rows stay alive until EndStep.
  virtual void BeginStep(std::span<const DecodeRow> rows) = 0;
  // q after RoPE (and q norm), f32 [row][num_q_heads][head_dim]; valid until the next AwaitQuery. May be empty if no
  // row may have partials.
  virtual std::span<const float> AwaitQuery(uint32_t layer) = 0;
  virtual void AttendResident(uint32_t layer) = 0;
  virtual PartialSlots& partial_slots() = 0;
  // Merges the first num_slots[row] slots of each row.
  virtual void FinishLayer(uint32_t layer, std::span<const uint32_t> num_slots) = 0;
  // What the row's resident attention gave in the layer last finished of those that are not windowed, before the merge,
  // with the sinks of a model that has learnt some in its denominator: f32 [num_q_heads][head_dim] and [num_q_heads].
  // It is there once AwaitQuery() of the next such layer, or EndStep(), has returned; until the next FinishLayer() of
  // one, or BeginStep(). REQUIRES: the row wants it, and may have partials.
  virtual ConstAttentionPartialView resident_partial(uint32_t row_idx) const = 0;
  // Logits f32 [row][vocab_size], valid until the next BeginStep. NaN if step_status() is not OK. Empty if the device
  // samples and no row wants logits.
  virtual std::span<const float> EndStep() = 0;
  // True if sampled() holds each row's next token after EndStep; valid until the next BeginStep.
  virtual bool samples() const { return false; }
  virtual std::span<const DeviceSample> sampled() const { return {}; }
  // How the last step ended. DEADLINE_EXCEEDED: the device gave up waiting for the caller, and the rows' KV is damaged;
  // or status().
  virtual absl::Status step_status() const { return absl::OkStatus(); }
  virtual DeviceStepTimes step_times() const { return {}; }
  // It is not OK once the device cannot be used any more. Calls do nothing then.
  virtual absl::Status status() const { return absl::OkStatus(); }

  // Begins the prefill of a prompt; several may be under way. INVALID_ARGUMENT beyond max_prefill_tokens,
  // RESOURCE_EXHAUSTED without memory. The device outlives what it returns.
  virtual absl::StatusOr<std::unique_ptr<Prefill>> BeginPrefill(std::span<const uint32_t> tokens, DType kv_dtype) = 0;
};

}  // namespace tributary

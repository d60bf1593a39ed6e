// What an attention policy keeps and computes on the device for one sequence, as whoever makes and reads frames sees
// it: the device facet, one of a policy's four seats (policy/README.md). A device makes it with the sequence's resident
// memory (Device::ReserveResident) and owns it; what it learns from the device, and when, is the device's own
// interface: host/policy/host_facet.h, cuda/policy/cuda_facet.h.
//
// A facet's words to a node, and the node's to it, are sections of frames: bytes of which nobody but the policy knows
// the meaning (wire/frame.h).
//
//   with each layer's query      WriteQuerySection   once q is there     -> behind q
//   with the answer              OnPartialSection    <- behind a partial's data
//   a measured layer is merged   OnMeasured
//   when a block leaves          OnLeaving           between two steps   -> behind K and V of its spills
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <memory>
#include <span>
#include <string>

#include "absl/status/status.h"
#include "attention/shape.h"
#include "attention/token_range.h"
#include "base/dtype.h"
#include "gpu_worker/device/device.h"

namespace tributary {

// The model that a device runs, for policies that were trained for it.
struct FacetModel {
  std::filesystem::path dir;  // its folder; empty: it has none
  std::string identity;       // ModelIdentity()
};

// What a facet is made for.
struct FacetSpec {
  AttentionShape shape;
  uint32_t num_layers = 0;
  uint32_t capacity_tokens = 0;     // resident slots
  uint64_t max_context_tokens = 0;  // of the sequence, ever
  DType kv_dtype = DType::kUnset;
  const PolicyParams* policy = nullptr;  // while the facet is made
  const FacetModel* model = nullptr;     // likewise; null: the device has no model of a folder
};
inline FacetSpec MakeFacetSpec(const ResidentSpec& spec, const AttentionShape& shape, uint32_t num_layers,
                               const FacetModel* model) {
  return {.shape = shape,
          .num_layers = num_layers,
          .capacity_tokens = spec.capacity_tokens,
          .max_context_tokens = spec.max_context_tokens != 0 ? spec.max_context_tokens : spec.capacity_tokens,
          .kv_dtype = spec.kv_dtype,
          .policy = spec.policy,
          .model = model};
}

// Queries of one layer that ask one shard together.
struct FacetQuery {
  uint32_t layer = 0;
  uint32_t row = 0;          // the first of them in the device's batch
  uint32_t num_rows = 1;     // they follow each other, and are successive tokens of the sequence
  bool is_measured = false;  // the answer is to be judged by what everything gives
  bool is_append = false;    // of an appended prompt: everything is attended to
  HeadRange kv_heads;        // the shard's
  TokenStripe stripe;        // likewise
  TokenRange visible;        // the sequence's remote tokens that they may see
};

// A block that leaves the window.
struct LeavingBlock {
  TokenRange tokens;
  std::array<SlotRange, 2> slots;  // in token order; the second may be empty
  // The number of resident tokens that the last step's softmax went over; 0 if the sequence has had no step.
  uint64_t softmax_tokens = 0;
};

// What goes with the K and V of some tokens that leave: a snapshot. Frames go out as nodes have room; if it were taken
// for each frame, it would depend on their timing. Immutable.
class SpillSections {
 public:
  virtual ~SpillSections() = default;

  // Bytes of the section of a frame with so many tokens and KV heads.
  virtual size_t Bytes(uint32_t num_tokens, HeadRange heads) const = 0;
  // REQUIRES: the tokens are among those that left; `section` has Bytes(), at any alignment.
  virtual void Write(uint32_t layer, TokenRange tokens, HeadRange heads, std::span<std::byte> section) const = 0;
};

// The facet of one sequence. Thread-compatible: the device's thread calls everything.
class PolicyFacet {
 public:
  virtual ~PolicyFacet() = default;

  // The section behind q; 0: none. Asked before q is there, while the frames are laid out, unless its size varies; then
  // once q is there, and the frame is laid out late.
  virtual size_t QuerySectionBytes(const FacetQuery& query) const { return 0; }
  // True: the size depends on q. MaxQuerySectionBytes() must hold it.
  virtual bool query_section_varies() const { return false; }
  virtual size_t MaxQuerySectionBytes(const FacetQuery& query) const { return QuerySectionBytes(query); }
  // Is called after AwaitQuery() of the layer. `section` has QuerySectionBytes(), and starts at a multiple of 8.
  virtual void WriteQuerySection(const FacetQuery& query, std::span<std::byte> section) {}

  // What the shard's answer may bring at most; a row whose partial brings more fails.
  virtual size_t MaxPartialSectionBytes(const FacetQuery& query) const { return 0; }
  // The answer's section, unaligned, from the network; empty if the node sent none. An error fails the row. Called for
  // each shard's answer if MaxPartialSectionBytes() was not 0, in the order of arrival: nothing that the step computes
  // may depend on it.
  virtual absl::Status OnPartialSection(const FacetQuery& query, std::span<const std::byte> section) {
    return absl::OkStatus();
  }

  // A measured query of the layer has been merged, of one token: the output error of what the policy selects
  // (attention/output_error.h), over the window and all shards, by query head. NaN where an operand is.
  virtual void OnMeasured(uint32_t layer, std::span<const float> output_errors) {}

  // A block begins to leave: what its spills carry, or null. Between steps; what is read is as the last step left it.
  virtual std::unique_ptr<const SpillSections> OnLeaving(const LeavingBlock& block) { return nullptr; }
};

}  // namespace tributary

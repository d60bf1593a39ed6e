// Fluxion's section of a query entry (behind q): what the worker's device knows of the resident tokens.
//
//   f32 lse_ln[num_q_heads]                  of the resident attention of this layer and step
//   f32 out[num_q_heads][head_dim]           its output, if the query has it (FluxionQueryHasOut)
//
// Little-endian, unaligned; of the shard's query heads. A query without a section says nothing: the node then judges
// blocks by the remote tokens alone. Queries of several tokens, or of an appended prompt, have none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "attention/partial.h"
#include "policy/fluxion/fluxion_params.h"

namespace tributary {

// Whether a query may have a section. `is_append`: its tokens are of a prompt, appended to what was stored before.
constexpr bool FluxionQueryMayHaveSection(BudgetMode mode, uint32_t n_q, bool is_append) {
  return mode != BudgetMode::kFixed && n_q == 1 && !is_append;
}
// True errors need the resident output; so measured queries and the oracle's bring it.
constexpr bool FluxionQueryHasOut(BudgetMode mode, bool is_measured) {
  return is_measured || mode == BudgetMode::kOracle;
}

constexpr size_t FluxionQuerySectionBytes(uint32_t num_q_heads, uint32_t head_dim, bool has_out) {
  return size_t{num_q_heads} * sizeof(float) * (has_out ? 1 + size_t{head_dim} : 1);
}

// Unaligned; empty: the section does not have it.
struct FluxionQuerySection {
  std::span<const std::byte> lse_ln;  // f32 [num_q_heads], any values
  std::span<const std::byte> out;     // f32 [num_q_heads][head_dim], likewise
};

// Of bytes from the network. True for a section of exactly this size, or an empty one; false leaves *to alone. Pure.
bool DecodeFluxionQuerySection(std::span<const std::byte> section, uint32_t num_q_heads, uint32_t head_dim,
                               bool has_out, FluxionQuerySection* to);

// REQUIRES (checked): a section of the size that the partial makes; a partial without `out` writes none.
void EncodeFluxionQuerySection(ConstAttentionPartialView resident, std::span<std::byte> section);

}  // namespace tributary

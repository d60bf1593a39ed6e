// Fluxion's section of a query entry (behind q): what the worker's device knows of the resident tokens, what it says of
// the heads' budgets, and how wrong the merged output was when it was last measured. It is empty, or parts in ascending
// order of their kind, each at most once:
//
//   u32 kind, u32 bytes of the payload, payload
//
//   1 lse      f32 [num_q_heads]              of the resident attention of this layer and step; always there
//   2 out      f32 [num_q_heads][head_dim]    its output, if the query has it (FluxionQueryForm)
//   3 budgets  f32 [num_q_heads][2]           share and growth (PredictedBudget), if the mode has them
//   4 errors   u32 number, f32 [num_q_heads]  of the measurement, counted from 1: errors of the merged outputs by query
//                                             head; may be there. Sent again with later queries; a node takes a number
//                                             once.
//
// Little-endian, unaligned; of the shard's query heads. A query without a section says nothing: modes that judge blocks
// do so by the remote tokens alone then, and one that needs budgets reads everything. Queries of several tokens, or of
// an appended prompt, have none.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

#include "attention/partial.h"
#include "policy/fluxion/budget_predictor.h"
#include "policy/fluxion/fluxion_params.h"

namespace tributary {

// Whether a query may have a section. `is_append`: its tokens are of a prompt, appended to what was stored before.
constexpr bool FluxionQueryMayHaveSection(BudgetMode mode, uint32_t n_q, bool is_append) {
  return mode != BudgetMode::kFixed && n_q == 1 && !is_append;
}

// What a section has beside the lse.
struct FluxionQueryForm {
  uint32_t num_q_heads = 0;
  uint32_t head_dim = 0;
  bool has_out = false;  // true errors need the resident output: measured queries and the oracle's bring it
  bool has_budgets = false;
  bool has_errors = false;  // of a form to decode by: the errors may be there
};
constexpr FluxionQueryForm FluxionQueryFormOf(BudgetMode mode, uint32_t num_q_heads, uint32_t head_dim,
                                              bool is_measured, bool has_errors) {
  return {.num_q_heads = num_q_heads,
          .head_dim = head_dim,
          .has_out = is_measured || mode == BudgetMode::kOracle,
          .has_budgets = mode == BudgetMode::kPredictor,
          .has_errors = has_errors};
}

size_t FluxionQuerySectionBytes(const FluxionQueryForm& form);

// Unaligned; empty: the section does not have it.
struct FluxionQuerySection {
  std::span<const std::byte> lse_ln;   // f32 [num_q_heads], any values
  std::span<const std::byte> out;      // f32 [num_q_heads][head_dim], likewise
  std::span<const std::byte> budgets;  // f32 [num_q_heads][2], likewise
  std::span<const std::byte> errors;   // f32 [num_q_heads], likewise
  uint32_t error_number = 0;           // 0: no errors
};

// Of bytes from the network. True for an empty section, or for one with exactly the parts of the form; false leaves *to
// alone. Pure.
bool DecodeFluxionQuerySection(std::span<const std::byte> section, const FluxionQueryForm& form,
                               FluxionQuerySection* to);

// What a section is made of; spans of the form's sizes, or empty where it has no such part.
struct FluxionQueryParts {
  std::span<const float> lse_ln;
  std::span<const float> out;
  std::span<const PredictedBudget> budgets;
  std::span<const float> errors;
  uint32_t error_number = 0;
};
// REQUIRES (checked): a section of the size that the parts make.
void EncodeFluxionQuerySection(const FluxionQueryParts& parts, std::span<std::byte> section);

}  // namespace tributary

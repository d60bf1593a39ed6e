// What one KV head of one layer of one shard has selected: the tokens, ascending, and how salient each was last. The
// bookkeeping beside a context cache, whose rows lie in the order of tokens().
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "policy/selection.h"

namespace tributary {

// Tokens are stripe-local indices. Saliences kept here are relative to uniform (policy/hgca/maw.h). Thread-compatible.
class HeadSelection {
 public:
  // keep_next: HgcaParams::keep_next. Saliences are spread forward by as many tokens, over the borders of
  // blocks, too, before a rule is applied to them.
  explicit HeadSelection(uint32_t keep_next = 0) : keep_next_(keep_next) {}

  // A block of `maw.size()` tokens from local index num_seen() on has been stored; their MAW came with it, from a
  // softmax over `resident_tokens`. Its kept tokens join the selection. Returns them, as offsets into the block, until
  // the next call: what the context cache must gather.
  std::span<const uint32_t> OnSpill(const SelectionRule& rule, std::span<const float> maw, uint64_t resident_tokens);

  // Appended queries gave each stored token a mean weight (softmax over the weights.size() tokens of the shard).
  // Replaces the selection: a token dropped before returns if it is attended to now. REQUIRES (checked): weights.size()
  // >= num_seen(). Returns the selection.
  std::span<const uint32_t> OnAppend(const SelectionRule& rule, std::span<const float> weights);

  // Reduces the selection to what the rule keeps of it. Returns the kept rows, as indices into the selection as it was,
  // until the next call: row i of the cache becomes the row that was at [i].
  std::span<const uint32_t> Distil(const SelectionRule& rule);

  // The node's own softmax over the selected tokens, in their order (UpdateCachedSalience).
  void OnAttended(float alpha, std::span<const float> weights);

  std::span<const uint32_t> tokens() const { return tokens_; }
  std::span<const float> salience() const { return salience_; }
  uint32_t num_seen() const { return num_seen_; }

 private:
  // The newest tokens are `weights.size()` more; their MAW or mean weight, from a softmax over `population` tokens.
  void KeepTail(std::span<const float> weights, uint64_t population);

  const uint32_t keep_next_;
  std::vector<uint32_t> tokens_;
  std::vector<float> salience_;
  std::vector<uint32_t> kept_;
  std::vector<float> tail_;    // saliences of the last keep_next tokens seen
  std::vector<float> joined_;  // tail and block; scratch
  std::vector<float> spread_;  // scratch
  uint32_t num_seen_ = 0;
};

}  // namespace tributary

#include "cpu_attention_service/policy/token_choice.h"

#include <algorithm>
#include <limits>

#include "attention/kv/kv_tile_layout.h"

namespace tributary {

void ChosenTokens::AddPiece(uint64_t tile, size_t num_rows) {
  pieces_.push_back({tile, 0});
  row_masks_.resize(row_masks_.size() + num_rows, 0);
}

void ChosenTokens::Set(std::span<const std::vector<uint32_t>> chosen, TokenRange all_rows) {
  constexpr uint64_t kNone = std::numeric_limits<uint64_t>::max();
  pieces_.clear();
  row_masks_.clear();
  next_.assign(chosen.size(), 0);
  while (true) {
    // The lowest tile that any row has still to come.
    uint64_t tile = kNone;
    for (size_t row = 0; row < chosen.size(); ++row) {
      if (next_[row] < chosen[row].size()) {
        tile = std::min<uint64_t>(tile, chosen[row][next_[row]] / kKvTileTokens);
      }
    }
    if (tile == kNone) break;
    AddPiece(tile, chosen.size());
    uint64_t* const masks = row_masks_.data() + row_masks_.size() - chosen.size();
    for (size_t row = 0; row < chosen.size(); ++row) {
      const std::vector<uint32_t>& tokens = chosen[row];
      size_t& next = next_[row];
      for (; next < tokens.size() && tokens[next] / kKvTileTokens == tile; ++next) {
        masks[row] |= uint64_t{1} << tokens[next] % kKvTileTokens;
      }
      pieces_.back().token_mask |= masks[row];
    }
  }
  for (uint64_t token = all_rows.begin; token < all_rows.end; ++token) {
    const uint64_t tile = token / kKvTileTokens, bit = uint64_t{1} << token % kKvTileTokens;
    if (pieces_.empty() || pieces_.back().tile != tile) AddPiece(tile, chosen.size());
    pieces_.back().token_mask |= bit;
    for (size_t row = 0; row < chosen.size(); ++row) row_masks_[row_masks_.size() - chosen.size() + row] |= bit;
  }
}

}  // namespace tributary

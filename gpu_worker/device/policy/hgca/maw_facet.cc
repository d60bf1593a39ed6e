#include "gpu_worker/device/policy/hgca/maw_facet.h"

#include <algorithm>
#include <cmath>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "policy/hgca/hgca_params.h"
#include "policy/hgca/spill_section.h"

namespace tributary {
namespace {

class BlockMaw final : public SpillSections {
 public:
  // maw: f32 [layer][token][kv_head].
  BlockMaw(const LeavingBlock& block, uint32_t num_kv_heads, std::vector<float> maw)
      : block_(block), num_kv_heads_(num_kv_heads), maw_(std::move(maw)) {}

  size_t Bytes(uint32_t num_tokens, HeadRange heads) const override {
    return HgcaSpillSectionBytes(num_tokens, heads.end - heads.begin);
  }
  void Write(uint32_t layer, TokenRange tokens, HeadRange heads, std::span<std::byte> section) const override {
    const std::span<std::byte> maw = BeginHgcaSpillSection(static_cast<uint32_t>(block_.softmax_tokens), section);
    const size_t bytes = (heads.end - heads.begin) * sizeof(float);
    TRIBUTARY_CHECK_EQ(maw.size(), tokens.size() * bytes);
    for (uint64_t i = 0; i < tokens.size(); ++i) {
      const size_t token = layer * block_.tokens.size() + tokens.begin + i - block_.tokens.begin;
      std::memcpy(maw.data() + i * bytes, &maw_[token * num_kv_heads_ + heads.begin], bytes);
    }
  }

 private:
  const LeavingBlock block_;
  const size_t num_kv_heads_;
  const std::vector<float> maw_;
};

}  // namespace

std::vector<PolicyBytes> MawParts(const FacetSpec& spec) {
  const uint64_t slot_bytes = uint64_t{spec.capacity_tokens} * sizeof(float);
  return {{"maw", spec.num_layers * spec.shape.num_kv_heads * slot_bytes},
          {"scores", spec.shape.num_q_heads * slot_bytes}};
}

MawParams MawParamsOf(const FacetSpec& spec) { return ReadHgcaParams(*spec.policy).maw(); }

std::unique_ptr<const SpillSections> ReadBlockMaw(const LeavingBlock& block, uint32_t num_layers, uint32_t num_kv_heads,
                                                  MawReader* reader) {
  if (block.softmax_tokens == 0) return nullptr;
  const size_t num_tokens = block.tokens.size();
  const size_t heads = num_kv_heads;
  std::vector<float> maw(num_layers * num_tokens * heads);
  std::vector<float> piece;  // [layer][kv_head][slot]
  size_t first = 0;          // of the block's tokens
  for (const SlotRange slots : block.slots) {
    const size_t count = slots.end - slots.begin;
    if (count == 0) continue;
    piece.resize(num_layers * heads * count);
    reader->ReadMaw(slots, piece);
    for (size_t i = 0; i < piece.size(); ++i) {
      const size_t layer = i / (heads * count), head = i / count % heads;
      const size_t token = layer * num_tokens + first + i % count;
      maw[token * heads + head] = piece[i];
    }
    first += count;
  }
  if (std::any_of(maw.begin(), maw.end(), [](float value) { return std::isnan(value); })) return nullptr;
  return std::make_unique<BlockMaw>(block, num_kv_heads, std::move(maw));
}

}  // namespace tributary

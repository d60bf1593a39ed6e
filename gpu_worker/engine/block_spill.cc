#include "gpu_worker/engine/block_spill.h"

#include <algorithm>

#include "base/check.h"
#include "gpu_worker/device/device.h"
#include "gpu_worker/engine/sequence.h"
#include "gpu_worker/spill/spill.h"

namespace tributary {
namespace {

// Some tokens of one layer in a sequence's resident slots.
class ResidentReader final : public KvReader {
 public:
  // layer: of the model; shard_layer: its number in shards.
  ResidentReader(const Sequence& sequence, uint32_t layer, uint32_t shard_layer, TokenRange tokens, Device* device)
      : sequence_(sequence), layer_(layer), shard_layer_(shard_layer), tokens_(tokens), device_(device) {}
  CopyTicket Read(HeadRange heads, std::span<std::byte> k, std::span<std::byte> v) const override {
    const size_t token_bytes = k.size() / tokens_.size();
    CopyTicket ticket = 0;
    size_t offset = 0;
    for (const SlotRange slots : sequence_.cache.SlotsOf(tokens_)) {
      const size_t bytes = (slots.end - slots.begin) * token_bytes;
      if (bytes == 0) continue;
      ticket = device_->ReadResident(sequence_.resident, layer_, slots, heads, k.subspan(offset, bytes),
                                     v.subspan(offset, bytes));
      offset += bytes;
    }
    TRIBUTARY_CHECK_EQ(offset, k.size());
    return ticket;
  }
  size_t SectionBytes(HeadRange heads) const override {
    const SpillSections* const sections = sequence_.spill->sections.get();
    return sections == nullptr ? 0 : sections->Bytes(static_cast<uint32_t>(tokens_.size()), heads);
  }
  void WriteSection(HeadRange heads, std::span<std::byte> section) const override {
    sequence_.spill->sections->Write(shard_layer_, tokens_, heads, section);
  }

 private:
  const Sequence& sequence_;
  const uint32_t layer_;
  const uint32_t shard_layer_;
  const TokenRange tokens_;
  Device* const device_;
};

// Tokens of the next frame to this shard.
uint64_t NextTokens(const BlockSpill& spill, const BoundShard& shard, uint32_t frame_bytes) {
  const uint64_t most = std::max<uint64_t>(1, frame_bytes / SpillSender::TokenBytes(shard));
  return std::min(most, spill.block.end - std::max(spill.token, spill.block.begin));
}

// Sends what is left of the block's layer to one holder of a shard. False if there was no room for all of it.
bool SendBlock(const Sequence& sequence, const BoundShard& shard, const LayerMap& layers, Device* device,
               uint32_t frame_bytes, SpillSender* sender, BlockSpill* spill, bool* sent_any) {
  const ShardHolder& holder = shard.holders[spill->holder_idx];
  spill->token = std::max(spill->token, spill->block.begin);
  while (!holder.lost && spill->token < spill->block.end) {
    const uint64_t num_tokens = NextTokens(*spill, shard, frame_bytes);
    const ResidentReader reader(sequence, layers.model_layer(spill->layer), spill->layer,
                                {spill->token, spill->token + num_tokens}, device);
    if (sender->Send(shard, holder.node, spill->layer, spill->token, static_cast<uint32_t>(num_tokens), reader) !=
        SpillSender::Sent::kSent) {
      return false;
    }
    *sent_any = true;
    spill->token += num_tokens;
  }
  spill->token = 0;
  return true;
}

}  // namespace

BlockSpill BeginBlockSpill(const Sequence& sequence, TokenRange block) {
  BlockSpill spill{.block = block};
  if (sequence.shards.empty()) {  // all of the model's layers are windowed
    spill.all_sent = true;
    return spill;
  }
  if (sequence.facet != nullptr) {
    spill.sections = sequence.facet->OnLeaving({block, sequence.cache.SlotsOf(block), sequence.softmax_tokens});
  }
  return spill;
}

bool PumpSpill(Sequence& sequence, const LayerMap& layers, Device* device, SpillSender* sender, uint32_t frame_bytes) {
  BlockSpill& spill = *sequence.spill;
  bool sent_any = false;
  for (; spill.layer < layers.num_shard_layers(); ++spill.layer, spill.shard_idx = 0) {
    for (; spill.shard_idx < sequence.shards.size(); ++spill.shard_idx, spill.holder_idx = 0) {
      const BoundShard& shard = sequence.shards[spill.shard_idx];
      const bool holds = spill.layer >= shard.spec.layer_begin && spill.layer < shard.spec.layer_end &&
                         shard.spec.stripe.Owns(spill.block.begin);
      if (!holds) continue;
      for (; spill.holder_idx < shard.holders.size(); ++spill.holder_idx) {
        if (!SendBlock(sequence, shard, layers, device, frame_bytes, sender, &spill, &sent_any)) return sent_any;
      }
    }
  }
  spill.all_sent = true;
  return sent_any;
}

}  // namespace tributary

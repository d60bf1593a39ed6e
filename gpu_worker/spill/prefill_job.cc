#include "gpu_worker/spill/prefill_job.h"

#include <algorithm>

#include "base/check.h"
#include "base/status.h"

namespace tributary {
namespace {

// Tokens of the layer that the device has projected.
class PrefillReader final : public KvReader {
 public:
  // layer: its number in shards. sections: of the layer; null: none.
  PrefillReader(Prefill* prefill, uint32_t layer, TokenRange tokens, const SpillSections* sections)
      : prefill_(prefill), layer_(layer), tokens_(tokens), sections_(sections) {}
  CopyTicket Read(HeadRange heads, std::span<std::byte> k, std::span<std::byte> v) const override {
    return prefill_->Read(tokens_.begin, static_cast<uint32_t>(tokens_.size()), heads, k, v);
  }
  size_t SectionBytes(HeadRange heads) const override {
    return sections_ == nullptr ? 0 : sections_->Bytes(static_cast<uint32_t>(tokens_.size()), heads);
  }
  void WriteSection(HeadRange heads, std::span<std::byte> section) const override {
    sections_->Write(layer_, tokens_, heads, section);
  }

 private:
  Prefill* const prefill_;
  const uint32_t layer_;
  const TokenRange tokens_;
  const SpillSections* const sections_;
};

}  // namespace

PrefillJob::PrefillJob(const PrefillInput& input, Device* device, SpillSender* spill)
    : input_(input), device_(device), spill_(spill) {
  const uint64_t tokens = input.prompt.size();
  work_left_ = input.layers.num_layers() * (ProjectWork(tokens) + AttendWork(0, tokens));
  for (size_t i = 0; i < input.shards.size(); ++i) {
    for (size_t holder = 0; holder < input.shards[i].holders.size(); ++holder) targets_.push_back({i, holder, 0});
  }
}

uint64_t PrefillJob::num_chunks() const {
  return (input_.prompt.size() + kPrefillChunkTokens - 1) / kPrefillChunkTokens;
}

double PrefillJob::ProjectWork(uint64_t tokens) const {
  return 4.0 * input_.num_kv_heads * input_.head_dim * static_cast<double>(tokens);
}

double PrefillJob::AttendWork(uint64_t begin, uint64_t end) const {
  const double mean_context = 0.5 * static_cast<double>(begin + end);
  const double q_dim = static_cast<double>(input_.num_q_heads) * input_.head_dim;
  return (25.0 * q_dim + 4.0 * mean_context) * static_cast<double>(end - begin);
}

double PrefillJob::fraction() const {
  return static_cast<double>(units_done_) / static_cast<double>(2 * num_chunks() * input_.layers.num_layers());
}

void PrefillJob::NextChunk(uint64_t* begin, uint64_t* end) {
  *begin = next_token_;
  *end = std::min<uint64_t>(next_token_ + kPrefillChunkTokens, input_.prompt.size());
  next_token_ = *end == input_.prompt.size() ? 0 : *end;
  ++units_done_;
}

absl::StatusOr<PrefillJob::Progress> PrefillJob::RunUnit() {
  uint64_t begin = 0, end = 0;
  switch (phase_) {
    case Phase::kBegin: {
      TRIBUTARY_ASSIGN_OR_RETURN(prefill_, device_->BeginPrefill(input_.prompt, input_.kv_dtype));
      phase_ = Phase::kProject;
      return Progress::kWorked;
    }
    case Phase::kProject:
      NextChunk(&begin, &end);
      prefill_->Project(layer_, begin, end);
      work_left_ -= ProjectWork(end - begin);
      if (next_token_ != 0) return Progress::kWorked;
      KeepResident();
      LeaveRemote();
      for (Target& target : targets_) target.cursor = input_.cache->remote().begin;
      StreamOut();
      phase_ = Phase::kAttend;
      return Progress::kWorked;
    case Phase::kAttend:
      NextChunk(&begin, &end);
      prefill_->Attend(layer_, begin, end);
      work_left_ -= AttendWork(begin, end);
      StreamOut();
      if (next_token_ == 0) phase_ = Phase::kStream;
      return Progress::kWorked;
    case Phase::kStream:
      if (!StreamOut()) return Progress::kWaiting;
      ++layer_;
      phase_ = layer_ == input_.layers.num_layers() ? Phase::kEnd : Phase::kProject;
      return Progress::kWorked;
    case Phase::kEnd:
      logits_ = prefill_->End();
      phase_ = Phase::kDone;
      return Progress::kDone;
    case Phase::kDone:
      break;
  }
  return Progress::kDone;
}

void PrefillJob::KeepResident() {
  const TokenRange remote = input_.cache->remote();
  const uint64_t prompt_tokens = input_.prompt.size();
  for (const TokenRange part :
       {TokenRange{0, std::min(remote.begin, prompt_tokens)}, TokenRange{remote.end, prompt_tokens}}) {
    uint64_t token = part.begin;
    for (const SlotRange slots : input_.cache->SlotsOf(part)) {
      if (slots.begin == slots.end) continue;
      prefill_->Keep(layer_, input_.resident, token, slots);
      token += slots.end - slots.begin;
    }
  }
}

void PrefillJob::LeaveRemote() {
  const TokenRange remote = input_.cache->remote();
  sections_ = nullptr;
  if (remote.empty() || input_.layers.is_windowed(layer_) || device_->facet(input_.resident) == nullptr) return;
  sections_ = prefill_->Leave(layer_, input_.resident, remote);
}

TokenRange PrefillJob::NextPiece(const Target& target) const {
  const BoundShard& shard = input_.shards[target.shard_idx];
  const ShardSpec& spec = shard.spec;
  const TokenRange remote = input_.cache->remote();
  uint64_t pos = target.cursor;
  if (shard.holders[target.holder_idx].lost || input_.layers.is_windowed(layer_)) return {};
  const uint32_t layer = input_.layers.shard_layer(layer_);
  if (layer < spec.layer_begin || layer >= spec.layer_end) return {};
  while (pos < remote.end && !spec.stripe.Owns(pos)) {
    // Runs are dealt round-robin: skip to the end of the run of the stripe that owns `pos`.
    pos = spec.stripe.RunAt(pos, remote.end).end;
  }
  if (pos >= remote.end) return {};
  const uint64_t max_tokens = std::max<uint64_t>(1, input_.spill_frame_bytes / SpillSender::TokenBytes(shard));
  return {pos, std::min(spec.stripe.RunAt(pos, remote.end).end, pos + max_tokens)};
}

bool PrefillJob::StreamOut() {
  // Round-robin, so that all nodes store at once; stops once each target is out of tokens or out of room.
  size_t num_idle = 0;
  bool all_sent = true;
  while (num_idle < targets_.size()) {
    Target& target = targets_[next_target_];
    next_target_ = (next_target_ + 1) % targets_.size();
    ++num_idle;
    const TokenRange piece = NextPiece(target);
    if (piece.empty()) continue;
    const uint32_t layer = input_.layers.shard_layer(layer_);
    const PrefillReader reader(prefill_.get(), layer, piece, sections_.get());
    const BoundShard& shard = input_.shards[target.shard_idx];
    const SpillSender::Sent sent = spill_->Send(shard, shard.holders[target.holder_idx].node, layer, piece.begin,
                                                static_cast<uint32_t>(piece.size()), reader);
    if (sent != SpillSender::Sent::kSent) {
      all_sent = false;
      continue;
    }
    target.cursor = piece.end;
    num_idle = 0;
    all_sent = true;
  }
  return all_sent;
}

}  // namespace tributary

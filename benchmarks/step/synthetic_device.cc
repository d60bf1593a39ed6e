#include "benchmarks/step/synthetic_device.h"

#include <cstring>

namespace tributary {

SyntheticDevice::SyntheticDevice(const SyntheticGeometry& geometry, const DeviceLimits& limits, uint64_t seed)
    : geometry_(geometry), limits_(limits), random_(seed) {
  const size_t heads = geometry.shape.num_q_heads;
  const size_t row_floats = heads * geometry.shape.head_dim;
  q_.resize(limits.max_batch * row_floats);
  std::normal_distribution<float> normal;
  for (float& value : q_) value = normal(random_);
  slot_out_.resize(limits.max_batch * limits.max_partial_slots * row_floats);
  slot_lse_ln_.resize(limits.max_batch * limits.max_partial_slots * heads);
  no_out_.resize(row_floats);
  no_lse_ln_.resize(heads, kEmptyLse);
  slots_ = {slot_out_, slot_lse_ln_, limits.max_partial_slots};
  logits_.resize(limits.max_batch * kVocabSize);
}

uint64_t SyntheticDevice::KvBytesPerToken(DType kv_dtype) const {
  return uint64_t{2} * geometry_.num_layers * geometry_.shape.num_kv_heads * geometry_.shape.head_dim *
         DTypeBytes(kv_dtype);
}

absl::StatusOr<ResidentId> SyntheticDevice::ReserveResident(const ResidentSpec& spec) {
  return ResidentId(++last_resident_);
}

CopyTicket SyntheticDevice::ReadResident(ResidentId id, uint32_t layer, SlotRange slots, HeadRange heads,
                                         std::span<std::byte> k, std::span<std::byte> v) {
  std::memset(k.data(), 0, k.size());
  std::memset(v.data(), 0, v.size());
  return 0;
}

// Random numbers, the same for every layer, for K and for V.
class SyntheticDevice::RandomPrefill final : public Prefill {
 public:
  RandomPrefill(SyntheticDevice* device, uint64_t num_tokens, DType kv_dtype)
      : device_(device),
        row_bytes_(device->geometry_.shape.num_kv_heads * device->geometry_.shape.head_dim * DTypeBytes(kv_dtype)),
        kv_(num_tokens * row_bytes_) {
    device->FillRandom(kv_dtype, kv_);
  }
  void Project(uint32_t layer, uint64_t token_begin, uint64_t token_end) override {}
  void Attend(uint32_t layer, uint64_t token_begin, uint64_t token_end) override {}
  CopyTicket Read(uint64_t token_begin, uint32_t num_tokens, HeadRange heads, std::span<std::byte> k,
                  std::span<std::byte> v) override {
    std::memcpy(k.data(), kv_.data() + token_begin * row_bytes_, k.size());
    std::memcpy(v.data(), kv_.data() + token_begin * row_bytes_, v.size());
    return 0;
  }
  void Keep(uint32_t layer, ResidentId id, uint64_t token_begin, SlotRange slots) override {}
  std::span<const float> End() override { return std::span<const float>(device_->logits_).first(kVocabSize); }

 private:
  SyntheticDevice* const device_;
  const size_t row_bytes_;
  std::vector<std::byte> kv_;
};

std::span<const float> SyntheticDevice::AwaitQuery(uint32_t layer) {
  return std::span<const float>(q_).first(num_rows_ * geometry_.shape.num_q_heads * geometry_.shape.head_dim);
}

std::span<const float> SyntheticDevice::EndStep() {
  return std::span<const float>(logits_).first(num_rows_ * kVocabSize);
}

void SyntheticDevice::FillRandom(DType dtype, std::vector<std::byte>& bytes) {
  std::normal_distribution<float> normal;
  std::vector<float> values(4096);
  for (float& value : values) value = normal(random_);
  const size_t element_bytes = DTypeBytes(dtype);
  for (size_t at = 0; at < bytes.size();) {  // repeats every 4096 elements: only the bytes count
    const size_t count = std::min(values.size(), (bytes.size() - at) / element_bytes);
    ConvertFromF32(dtype, values.data(), count, bytes.data() + at);
    at += count * element_bytes;
  }
}

absl::StatusOr<std::unique_ptr<Prefill>> SyntheticDevice::BeginPrefill(std::span<const uint32_t> tokens,
                                                                       DType kv_dtype) {
  return std::make_unique<RandomPrefill>(this, tokens.size(), kv_dtype);
}

}  // namespace tributary

#include "benchmarks/gpu/filled_device.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/check.h"
#include "base/status.h"

namespace tributary {
namespace {
constexpr size_t kRandomValues = size_t{4} << 20;
}  // namespace

FilledDevice::FilledDevice(std::unique_ptr<Device> inner, const ModelConfig& config, uint64_t seed)
    : inner_(std::move(inner)), config_(config), limits_(inner_->limits()), random_(seed) {
  TRIBUTARY_CHECK_GE(limits_.max_prefill_tokens, kFillTokens);
  limits_.max_prefill_tokens = 1u << 30;
  logits_.resize(config.vocab_size);
  values_.resize(kRandomValues);
  std::normal_distribution<float> normal;
  for (float& value : values_) value = normal(random_);
}

absl::StatusOr<ResidentId> FilledDevice::ReserveResident(const ResidentSpec& spec) {
  TRIBUTARY_ASSIGN_OR_RETURN(const ResidentId id, inner_->ReserveResident(spec));
  TRIBUTARY_RETURN_IF_ERROR(Fill(id, spec.capacity_tokens, spec.kv_dtype));
  return id;
}

absl::Status FilledDevice::Fill(ResidentId id, uint32_t capacity_tokens, DType kv_dtype) {
  // KV as the model's first products give it; a layer's attention is not needed for that.
  std::vector<uint32_t> tokens(kFillTokens);
  for (uint32_t& token : tokens) token = static_cast<uint32_t>(random_() % config_.vocab_size);
  TRIBUTARY_ASSIGN_OR_RETURN(const std::unique_ptr<Prefill> prefill, inner_->BeginPrefill(tokens, kv_dtype));
  for (uint32_t layer = 0; layer < config_.num_layers; ++layer) {
    for (uint32_t begin = 0; begin < kFillTokens; begin += kPrefillChunkTokens) {
      prefill->Project(layer, begin, begin + kPrefillChunkTokens);
    }
    for (uint32_t slot = 0; slot < capacity_tokens; slot += kFillTokens) {
      prefill->Keep(layer, id, 0, {slot, std::min(slot + kFillTokens, capacity_tokens)});
    }
  }
  return absl::OkStatus();
}

// Computes nothing and gives the device's random numbers.
class FilledDevice::RandomPrefill final : public Prefill {
 public:
  explicit RandomPrefill(FilledDevice* device) : device_(device) {}
  void Project(uint32_t layer, uint64_t token_begin, uint64_t token_end) override {}
  void Attend(uint32_t layer, uint64_t token_begin, uint64_t token_end) override {}
  CopyTicket Read(uint64_t token_begin, uint32_t num_tokens, HeadRange heads, std::span<std::byte> k,
                  std::span<std::byte> v) override {
    // Any place in the random numbers will do; K and V get different ones.
    for (std::span<std::byte> to : {k, v}) {
      TRIBUTARY_CHECK_LE(to.size(), device_->kv_.size());
      const size_t offset = device_->random_() % (device_->kv_.size() - to.size() + 1) / 64 * 64;
      std::memcpy(to.data(), device_->kv_.data() + offset, to.size());
    }
    return 0;
  }
  void Keep(uint32_t layer, ResidentId id, uint64_t token_begin, SlotRange slots) override {}
  std::span<const float> End() override { return device_->logits_; }

 private:
  FilledDevice* const device_;
};

absl::StatusOr<std::unique_ptr<Prefill>> FilledDevice::BeginPrefill(std::span<const uint32_t> tokens, DType kv_dtype) {
  if (computes_) return inner_->BeginPrefill(tokens, kv_dtype);
  if (kv_dtype != kv_dtype_) {
    kv_dtype_ = kv_dtype;
    kv_.resize(kRandomValues * DTypeBytes(kv_dtype));
    ConvertFromF32(kv_dtype, values_.data(), kRandomValues, kv_.data());
  }
  return std::make_unique<RandomPrefill>(this);
}

}  // namespace tributary

#include "gpu_worker/device/device.h"

#include "fmt/format.h"
#include "gpu_worker/device/facet.h"

namespace tributary {

absl::Status ValidatePrompt(std::span<const uint32_t> tokens, DType kv_dtype, uint32_t max_prefill_tokens,
                            uint32_t vocab_size) {
  if (tokens.empty() || tokens.size() > max_prefill_tokens) {
    return absl::InvalidArgumentError(fmt::format("prompt of {} tokens; it must have 1 to {} (max_prefill_tokens)",
                                                  tokens.size(), max_prefill_tokens));
  }
  if (!IsValidDType(kv_dtype)) {
    return absl::InvalidArgumentError(fmt::format("KV dtype {} is none of f32, bf16, f16", static_cast<int>(kv_dtype)));
  }
  for (size_t i = 0; i < tokens.size(); ++i) {
    if (tokens[i] < vocab_size) continue;
    return absl::InvalidArgumentError(
        fmt::format("prompt token {} is {}; the vocabulary has {} tokens", i, tokens[i], vocab_size));
  }
  return absl::OkStatus();
}

std::unique_ptr<const SpillSections> Prefill::Leave(uint32_t layer, ResidentId id, TokenRange tokens) {
  return nullptr;
}

}  // namespace tributary

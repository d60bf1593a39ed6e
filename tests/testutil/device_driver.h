// Runs a whole model on a Device with nothing remote: the shortest correct use of the interface.
#pragma once

#include <algorithm>
#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "base/check.h"
#include "gpu_worker/device/device.h"

namespace tributary {

// Prefills `tokens` into slots 0.. of a new resident region of `capacity_tokens`.
// `after_layer(prefill, layer)` may call Read(). Dies on an error.
struct Prefilled {
  ResidentId resident;
  std::vector<float> logits;  // of the last token
};
template <typename AfterLayer>
Prefilled PrefillResident(Device& device, uint32_t num_layers, std::span<const uint32_t> tokens, DType kv_dtype,
                          uint32_t capacity_tokens, uint32_t chunk_tokens, const AfterLayer& after_layer) {
  const absl::StatusOr<ResidentId> resident = device.ReserveResident({capacity_tokens, kv_dtype});
  TRIBUTARY_CHECK(resident.ok());
  const absl::StatusOr<std::unique_ptr<Prefill>> begun = device.BeginPrefill(tokens, kv_dtype);
  TRIBUTARY_CHECK(begun.ok());
  Prefill& prefill = **begun;
  for (uint32_t layer = 0; layer < num_layers; ++layer) {
    for (const auto step : {&Prefill::Project, &Prefill::Attend}) {
      for (size_t begin = 0; begin < tokens.size(); begin += chunk_tokens) {
        (prefill.*step)(layer, begin, std::min<size_t>(begin + chunk_tokens, tokens.size()));
      }
    }
    prefill.Keep(layer, *resident, 0, {0, static_cast<uint32_t>(tokens.size())});
    after_layer(prefill, layer);
  }
  const std::span<const float> logits = prefill.End();
  return {*resident, {logits.begin(), logits.end()}};
}

inline Prefilled PrefillResident(Device& device, uint32_t num_layers, std::span<const uint32_t> tokens, DType kv_dtype,
                                 uint32_t capacity_tokens, uint32_t chunk_tokens = kPrefillChunkTokens) {
  return PrefillResident(device, num_layers, tokens, kv_dtype, capacity_tokens, chunk_tokens,
                         [](Prefill&, uint32_t) {});
}

// A row that has tokens [0, pos] in slots [0, pos].
inline DecodeRow ContiguousRow(ResidentId resident, uint32_t token, uint32_t pos) {
  return {.token = token, .pos = pos, .resident = resident, .append_slot = pos, .attend = {SlotRange{0, pos + 1}}};
}

// One decode step with all KV resident; logits [row][vocab].
inline std::vector<float> DecodeResident(Device& device, uint32_t num_layers, std::span<const DecodeRow> rows) {
  const std::vector<uint32_t> no_slots(rows.size(), 0);
  device.BeginStep(rows);
  for (uint32_t layer = 0; layer < num_layers; ++layer) {
    device.AwaitQuery(layer);
    device.AttendResident(layer);
    device.FinishLayer(layer, no_slots);
  }
  const std::span<const float> logits = device.EndStep();
  return {logits.begin(), logits.end()};
}

}  // namespace tributary

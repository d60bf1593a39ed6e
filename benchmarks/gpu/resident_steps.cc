#include "benchmarks/gpu/resident_steps.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <utility>

#include "base/clock.h"
#include "base/status.h"
#include "benchmarks/support/median.h"
#include "gpu_worker/device/facet.h"

namespace tributary {
namespace {

constexpr uint32_t kWarmUps = 4;
constexpr uint32_t kReadTokens = 256;

absl::StatusOr<std::vector<DecodeRow>> Reserve(const ResidentSteps& spec, Device* device) {
  std::vector<DecodeRow> rows(spec.batch);
  for (uint32_t i = 0; i < spec.batch; ++i) {
    DecodeRow& row = rows[i];
    TRIBUTARY_ASSIGN_OR_RETURN(row.resident,
                               device->ReserveResident({.capacity_tokens = spec.context_tokens,
                                                        .kv_dtype = DType::kBf16,
                                                        .policy = spec.policy.has_value() ? &*spec.policy : nullptr}));
    row.token = 100 + i;
    row.pos = spec.context_tokens - 1;
    row.append_slot = spec.context_tokens - 1;
    row.attend[0] = {0, spec.context_tokens};
    row.may_have_partials = spec.exchange_slots > 0;
    row.wants_logits = !device->samples();
  }
  return rows;
}

absl::Status Step(const ResidentSteps& spec, std::span<const DecodeRow> rows, std::span<const uint32_t> num_slots,
                  Device* device) {
  device->BeginStep(rows);
  for (uint32_t layer = 0; layer < spec.num_layers; ++layer) {
    device->AwaitQuery(layer);
    device->AttendResident(layer);
    device->FinishLayer(layer, num_slots);
  }
  const std::span<const float> logits = device->EndStep();
  TRIBUTARY_RETURN_IF_ERROR(device->step_status());
  const double result = device->samples() ? device->sampled()[0].logprob : logits[0];
  if (!std::isfinite(result)) return absl::InternalError("the logits are not finite");
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<ResidentTimes> RunResidentSteps(const ResidentSteps& spec, Device* device) {
  TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<DecodeRow> rows, Reserve(spec, device));
  const std::vector<uint32_t> num_slots(spec.batch, spec.exchange_slots);
  std::fill(device->partial_slots().lse_ln.begin(), device->partial_slots().lse_ln.end(),
            -std::numeric_limits<float>::infinity());
  const RealClock clock;
  const auto us_since = [&](int64_t begin_ns) { return static_cast<double>(clock.NowNs() - begin_ns) * 1e-3; };
  ResidentTimes times;
  std::vector<double> step_us;
  for (uint32_t i = 0; i < spec.steps + kWarmUps; ++i) {
    const int64_t begin_ns = clock.NowNs();
    TRIBUTARY_RETURN_IF_ERROR(Step(spec, rows, num_slots, device));
    if (i == 0) times.first_step_us = us_since(begin_ns);
    if (i >= kWarmUps) step_us.push_back(us_since(begin_ns));
  }
  times.step_us = MedianOf(std::move(step_us));
  if (PolicyFacet* const facet = device->facet(rows[0].resident)) {
    const uint32_t tokens = std::min(kReadTokens, spec.context_tokens);
    const LeavingBlock block{{0, tokens}, {SlotRange{0, tokens}}, spec.context_tokens};
    std::vector<double> leave_us;
    for (uint32_t i = 0; i < spec.steps; ++i) {
      const int64_t begin_ns = clock.NowNs();
      (void)facet->OnLeaving(block);
      leave_us.push_back(us_since(begin_ns));
    }
    times.leave_us = MedianOf(std::move(leave_us));
  }
  for (const DecodeRow& row : rows) device->ReleaseResident(row.resident);
  return times;
}

}  // namespace tributary

// Fluxion's facet on the host device: with each query it sends the resident attention's lse, on measured ones its
// output, in mode `predictor` the heads' budgets, and after a measured step the errors of the merged output. So the
// resident attention of a layer goes before its query: a node that knows what the window holds need not read for most
// heads, which is worth more than the microseconds by which the query is later.
#include <algorithm>
#include <map>
#include <memory>
#include <optional>
#include <utility>
#include <vector>

#include "base/status.h"
#include "gpu_worker/device/host/policy/fluxion/host_predictor.h"
#include "gpu_worker/device/host/policy/host_facet.h"
#include "gpu_worker/device/policy/fluxion/predictor_file.h"
#include "policy/fluxion/fluxion_params.h"
#include "policy/fluxion/query_section.h"

namespace tributary {
namespace {

HostFacet::Rows WeightsOf(BudgetMode mode) {
  return mode == BudgetMode::kPredictor ? HostFacet::Rows::kLastOfSequence : HostFacet::Rows::kNone;
}

class HostFluxion final : public HostFacet {
 public:
  HostFluxion(const FacetSpec& spec, std::optional<HostPredictor> predictor)
      : HostFacet(WeightsOf(ReadFluxionParams(*spec.policy).mode), /*query_follows_attention=*/true),
        mode_(ReadFluxionParams(*spec.policy).mode),
        shape_(spec.shape),
        predictor_(std::move(predictor)),
        measured_(spec.num_layers) {}

  void OnNewTokens(uint32_t layer, SlotRange slots) override {
    if (predictor_.has_value()) predictor_->OnNewTokens(layer, slots);
  }
  std::unique_ptr<const SpillSections> OnPrompt(const HostPrompt& prompt) override {
    if (predictor_.has_value()) predictor_->OnPrompt(prompt);
    return nullptr;
  }
  std::unique_ptr<const SpillSections> OnLeaving(const LeavingBlock& block) override {
    if (predictor_.has_value()) predictor_->OnLeaving(block);
    return nullptr;
  }

  // Makes room for the row, since OnAttended() comes from several threads.
  void OnQuery(const HostQuery& query) override {
    Resident& resident = resident_[query.row_idx];
    resident.lse_ln.resize(shape_.num_q_heads);
    resident.out.resize(size_t{shape_.num_q_heads} * shape_.head_dim);
    if (predictor_.has_value()) predictor_->OnQuery(query);
  }

  void OnAttended(const HostAttention& attention) override {
    Resident& resident = resident_.find(attention.row_idx)->second;
    const size_t first = size_t{attention.kv_head} * shape_.group_size();
    std::copy(attention.lse_ln.begin(), attention.lse_ln.end(),
              resident.lse_ln.begin() + static_cast<std::ptrdiff_t>(first));
    std::copy(attention.out.begin(), attention.out.end(),
              resident.out.begin() + static_cast<std::ptrdiff_t>(first * shape_.head_dim));
    if (predictor_.has_value()) predictor_->OnAttended(attention);
  }

  size_t QuerySectionBytes(const FacetQuery& query) const override {
    if (!FluxionQueryMayHaveSection(mode_, query.num_rows, query.is_append)) return 0;
    return FluxionQuerySectionBytes(FormOf(query));
  }
  void WriteQuerySection(const FacetQuery& query, std::span<std::byte> section) override {
    if (section.empty()) return;
    const Resident& resident = resident_.at(query.row);
    const FluxionQueryForm form = FormOf(query);
    const size_t first = size_t{query.kv_heads.begin} * shape_.group_size(), count = form.num_q_heads;
    FluxionQueryParts parts;
    parts.lse_ln = std::span(resident.lse_ln).subspan(first, count);
    if (form.has_out) {
      parts.out = std::span(resident.out).subspan(first * shape_.head_dim, count * shape_.head_dim);
    }
    if (form.has_budgets) parts.budgets = predictor_->Budgets(query).subspan(first, count);
    if (form.has_errors) {
      const Measured& measured = measured_[query.layer];
      parts.errors = std::span(measured.errors).subspan(first, count);
      parts.error_number = measured.number;
    }
    EncodeFluxionQuerySection(parts, section);
  }

  void OnMeasured(uint32_t layer, std::span<const float> output_errors) override {
    Measured& measured = measured_[layer];
    measured.errors.assign(output_errors.begin(), output_errors.end());
    ++measured.number;
  }

 private:
  // Of the layer in work.
  struct Resident {
    std::vector<float> lse_ln;  // [num_q_heads]
    std::vector<float> out;     // [num_q_heads][head_dim]
  };
  // Of a layer's last measured query.
  struct Measured {
    uint32_t number = 0;
    std::vector<float> errors;  // [num_q_heads]
  };

  FluxionQueryForm FormOf(const FacetQuery& query) const {
    const uint32_t num_q_heads = (query.kv_heads.end - query.kv_heads.begin) * shape_.group_size();
    return FluxionQueryFormOf(mode_, num_q_heads, shape_.head_dim, query.is_measured,
                              measured_[query.layer].number != 0);
  }

  const BudgetMode mode_;
  const AttentionShape shape_;
  std::optional<HostPredictor> predictor_;  // of mode `predictor`
  std::map<uint32_t, Resident> resident_;   // by row of the batch
  std::vector<Measured> measured_;          // [layer]
};

std::vector<PolicyBytes> Parts(const FacetSpec& spec) {
  if (ReadFluxionParams(*spec.policy).mode != BudgetMode::kPredictor) return {};
  return {{"coarse_blocks", HostPredictor::Bytes(spec)}};
}

absl::StatusOr<std::unique_ptr<HostFacet>> Make(const FacetSpec& spec, const HostFacetMemory& memory) {
  const BudgetMode mode = ReadFluxionParams(*spec.policy).mode;
  if (mode == BudgetMode::kFixed) return nullptr;
  std::optional<HostPredictor> host_predictor;
  if (mode == BudgetMode::kPredictor) {
    TRIBUTARY_ASSIGN_OR_RETURN(BudgetPredictor predictor, LoadBudgetPredictor(spec.model, spec.shape, spec.num_layers));
    host_predictor.emplace(spec, memory, std::move(predictor));
  }
  return std::make_unique<HostFluxion>(spec, std::move(host_predictor));
}

}  // namespace

HostSeat FluxionHostSeat() { return {.parts = &Parts, .make = &Make}; }

}  // namespace tributary

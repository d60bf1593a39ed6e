// Fluxion's facet on the host device: with each query it sends the resident attention's lse, and where a true error is
// to be worked out its output. So the resident attention of a layer goes before its query: a node that knows what the
// window holds need not read for most heads, which is worth more than the microseconds by which the query is later.
#include <algorithm>
#include <map>
#include <memory>
#include <vector>

#include "gpu_worker/device/host/policy/host_facet.h"
#include "policy/fluxion/fluxion_params.h"
#include "policy/fluxion/query_section.h"

namespace tributary {
namespace {

class HostFluxion final : public HostFacet {
 public:
  explicit HostFluxion(const FacetSpec& spec)
      : HostFacet(Rows::kNone, /*query_follows_attention=*/true),
        mode_(ReadFluxionParams(*spec.policy).mode),
        shape_(spec.shape) {}

  // Makes room for the row, since OnAttended() comes from several threads.
  void OnQuery(const HostQuery& query) override {
    Resident& resident = resident_[query.row_idx];
    resident.lse_ln.resize(shape_.num_q_heads);
    resident.out.resize(size_t{shape_.num_q_heads} * shape_.head_dim);
  }

  void OnAttended(const HostAttention& attention) override {
    Resident& resident = resident_.find(attention.row_idx)->second;
    const size_t first = size_t{attention.kv_head} * shape_.group_size();
    std::copy(attention.lse_ln.begin(), attention.lse_ln.end(),
              resident.lse_ln.begin() + static_cast<std::ptrdiff_t>(first));
    std::copy(attention.out.begin(), attention.out.end(),
              resident.out.begin() + static_cast<std::ptrdiff_t>(first * shape_.head_dim));
  }

  size_t QuerySectionBytes(const FacetQuery& query) const override {
    if (!FluxionQueryMayHaveSection(mode_, query.num_rows, query.is_append)) return 0;
    return FluxionQuerySectionBytes(NumQHeads(query), shape_.head_dim, HasOut(query));
  }
  void WriteQuerySection(const FacetQuery& query, std::span<std::byte> section) override {
    if (section.empty()) return;
    const Resident& resident = resident_.at(query.row);
    const size_t first = size_t{query.kv_heads.begin} * shape_.group_size();
    ConstAttentionPartialView view;
    view.lse_ln = std::span(resident.lse_ln).subspan(first, NumQHeads(query));
    if (HasOut(query)) {
      view.out = std::span(resident.out).subspan(first * shape_.head_dim, size_t{NumQHeads(query)} * shape_.head_dim);
    }
    EncodeFluxionQuerySection(view, section);
  }

 private:
  // Of the layer in work.
  struct Resident {
    std::vector<float> lse_ln;  // [num_q_heads]
    std::vector<float> out;     // [num_q_heads][head_dim]
  };

  bool HasOut(const FacetQuery& query) const { return FluxionQueryHasOut(mode_, query.is_measured); }
  uint32_t NumQHeads(const FacetQuery& query) const {
    return (query.kv_heads.end - query.kv_heads.begin) * shape_.group_size();
  }

  const BudgetMode mode_;
  const AttentionShape shape_;
  std::map<uint32_t, Resident> resident_;  // by row of the batch
};

}  // namespace

HostSeat FluxionHostSeat() {
  return {.parts = nullptr, .make = [](const FacetSpec& spec, const HostFacetMemory&) -> std::unique_ptr<HostFacet> {
            if (ReadFluxionParams(*spec.policy).mode == BudgetMode::kFixed) return nullptr;
            return std::make_unique<HostFluxion>(spec);
          }};
}

}  // namespace tributary

#include "gpu_worker/device/cuda/storage/cuda_resident.h"

#include "absl/status/status.h"
#include "base/status.h"
#include "fmt/format.h"
#include "policy/policy_params.h"

namespace tributary {

absl::StatusOr<std::unique_ptr<CudaResident>> CudaResident::Make(CudaContext* context, const CudaDeviceSeats* seats) {
  std::unique_ptr<CudaResident> resident(new CudaResident(context, seats));
  TRIBUTARY_ASSIGN_OR_RETURN(resident->pool_,
                             DeviceBuffer::Make(context->limits.resident_pool_bytes, "the resident pool"));
  return resident;
}

absl::StatusOr<ResidentId> CudaResident::Reserve(const ResidentSpec& spec) {
  const ModelConfig& config = context_->config;
  const FacetSpec facet_spec = MakeFacetSpec(spec, config.attention, config.num_layers, nullptr);
  uint32_t kind = 0;
  std::vector<PolicyBytes> parts;
  if (spec.policy != nullptr) {
    TRIBUTARY_ASSIGN_OR_RETURN(kind, seats_->KindOf(spec.policy->name()));
    if (kind != 0 && context_->layers.num_shard_layers() != config.num_layers) {
      return absl::UnimplementedError(
          fmt::format("policy '{}' has a seat on the GPU, which does not know models with windowed layers yet; use "
                      "--device host, or --policy dense or delta",
                      std::string(spec.policy->name())));
    }
    if (kind != 0) {
      TRIBUTARY_RETURN_IF_ERROR(seats_->seat(kind).Check(facet_spec));
      parts = seats_->seat(kind).Parts(facet_spec);
    }
  }
  TRIBUTARY_ASSIGN_OR_RETURN(const ResidentId id, regions_.Reserve(spec.capacity_tokens, spec.kv_dtype, parts));
  if (facets_.size() <= id.value) facets_.resize(id.value + 1);
  if (kind == 0) return id;
  std::vector<std::byte*> memory;
  for (const ResidentRegions::Part& part : regions_.parts(id)) memory.push_back(pool_.data() + part.offset);
  facets_[id.value] = {kind,
                       seats_->seat(kind).MakeFacet(facet_spec, {memory, Slots(id, 0, ResidentRegions::Kind::kKey)})};
  return id;
}

void CudaResident::Release(ResidentId id) {
  regions_.Release(id);
  facets_[id.value] = {};
}

}  // namespace tributary

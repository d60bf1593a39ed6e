#include "policy/fluxion/feature_spec.h"

#include "base/fnv1a.h"
#include "fmt/format.h"

namespace tributary {

std::string FluxionFeatureSpecHash() {
  uint64_t hash = kFnv1aBegin;
  for (const FluxionFeature& feature : kFluxionFeatures) {
    hash = Fnv1a(fmt::format("{}:{}\n", feature.name, feature.formula), hash);
  }
  return fmt::format("{:016x}", hash);
}

}  // namespace tributary

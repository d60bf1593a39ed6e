// What each KV head of each layer read of the remote tokens, how much of their softmax it kept, and how wrong its
// output was, over one or several requests. Pure.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "tributary/v1/coordinator.pb.h"

namespace tributary {

// Shares from 0 to 1 and errors: means, minima and maxima over the sampled decode steps.
class HeadUsage {
 public:
  struct Head {
    uint64_t samples = 0;
    double read_share = 0;
    double kept_mass_mean = 0;
    double kept_mass_min = 1;
    double output_error_mean = 0;
    double output_error_max = 0;
  };

  // Adds what a request's summary says; nothing if it says nothing of heads. Heads that no model has are ignored.
  void Add(const v1::GenerateEvent::Summary& summary);

  bool empty() const { return heads_.empty(); }
  // [layer][kv_head], all rows of one length; without samples where nothing was said.
  const std::vector<std::vector<Head>>& heads() const { return heads_; }

 private:
  std::vector<std::vector<Head>> heads_;
};

}  // namespace tributary

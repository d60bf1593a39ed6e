// A request as a client makes it and the coordinator takes it (proto/tributary/v1/coordinator.proto has the words).
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "base/ids.h"
#include "cluster/sequence_plan.h"
#include "cluster/window_layout.h"
#include "policy/policy_params.h"

namespace tributary {

// How a sequence's remote KV is cut into shards.
enum class Cut { kAuto = 0, kTokens = 1, kHeads = 2, kBoth = 3 };
std::string_view CutName(Cut cut);  // "auto", "tokens", "heads", "both"

// How a request's KV is laid out. After ResolvePlacement() (coordinator/core/admission.h) no field is left to a
// default.
struct PlacementOptions {
  uint32_t window_tokens = 0;
  uint32_t sink_tokens = 0;
  bool has_sink_tokens = false;  // sink_tokens is meant, even if 0
  uint32_t block_tokens = 0;
  DType kv_dtype = DType::kUnset;        // resident, and on the way to shards
  DType remote_k_dtype = DType::kUnset;  // in shards; unset in defaults: kv_dtype
  DType remote_v_dtype = DType::kUnset;
  Cut cut = Cut::kAuto;
  uint32_t max_nodes = 0;  // 0 = all
  bool all_resident = false;

  WindowLayout layout() const { return {sink_tokens, window_tokens, block_tokens, all_resident}; }
  friend bool operator==(const PlacementOptions&, const PlacementOptions&) = default;
};

// Whether a sequence stays after its answer.
struct KeepOptions {
  int64_t lease_ns = 0;             // from the end of an answer on; 0: it does not stay
  uint64_t max_context_tokens = 0;  // prompts and answers of all turns; of a continuation: 0 or as it was

  bool asked() const { return lease_ns != 0; }
};

struct GenerateSpec : TurnPlan {  // TurnPlan::keep follows from `lease`: the coordinator sets it in the plan
  PlacementOptions placement;
  PolicyRequest policy;          // as asked
  PolicyParams resolved_policy;  // set at admission
  KeepOptions lease;
  std::string request_id;           // for Cancel; "" = made by the coordinator
  std::string continue_request_id;  // "" = a new sequence
  bool report_attention_heads = false;
};

// A request stands still because of this node or worker.
struct RequestStalled {
  enum class Reason {
    kSilent,      // it may come back: nothing is lost
    kRebuilding,  // it is gone: what it held is computed again
  };
  std::string node_id;
  Reason reason = Reason::kSilent;
};

// A request has a place.
struct RequestAccepted {
  std::string request_id;
  SequenceId sequence_id;
  Epoch epoch;
  std::string worker_id;
};

}  // namespace tributary

// The worker's messages <-> the engine's own types.
#pragma once

#include <span>
#include <vector>

#include "absl/status/statusor.h"
#include "gpu_worker/engine/decode_engine.h"
#include "gpu_worker/engine/engine_loop.h"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

// `eos_tokens` end the sequence too, unless the request ignores them. INVALID_ARGUMENT: unset or unknown dtypes; the
// engine checks the rest.
absl::StatusOr<SequencePlan> PlanFromProto(const v1::WorkerCommand::StartSequence& message,
                                           const std::vector<uint32_t>& eos_tokens);
ContinuePlan ContinueFromProto(const v1::WorkerCommand::ContinueSequence& message,
                               const std::vector<uint32_t>& eos_tokens);
StepCommand StepFromProto(const v1::WorkerCommand::Step& message);

v1::WorkerEvent TokensToProto(const SequenceTokens& tokens);
v1::WorkerEvent StepDoneToProto(StepId step, std::span<const SequenceTokens> tokens, double step_s);
v1::WorkerEvent EndedToProto(SequenceId sequence, const absl::Status& status, const std::string& failed_node_id,
                             const SequenceSummary& summary);
v1::WorkerEvent KeptToProto(SequenceId sequence, const SequenceSummary& summary);

}  // namespace tributary

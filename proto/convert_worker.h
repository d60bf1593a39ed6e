// What the coordinator and a GPU worker say to each other over the worker's stream.
#pragma once

#include <span>

#include "absl/status/statusor.h"
#include "cluster/sequence_plan.h"
#include "cluster/worker_event.h"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

// Commands. What a plan says is checked by the worker (gpu_worker/sequence/sequence_plan.h); here only what has no
// house value: INVALID_ARGUMENT for unset or unknown dtypes, an incomplete policy, or a shard's list of holders.
v1::WorkerCommand WorkerCommandToProto(const SequencePlan& plan);
v1::WorkerCommand WorkerCommandToProto(const ContinuePlan& plan);
v1::WorkerCommand WorkerCommandToProto(const StepCommand& step);
v1::WorkerCommand WorkerCommandToProto(const StopCommand& stop);
absl::StatusOr<SequencePlan> SequencePlanFromProto(const v1::WorkerCommand::StartSequence& message);
ContinuePlan ContinuePlanFromProto(const v1::WorkerCommand::ContinueSequence& message);
StepCommand StepFromProto(const v1::WorkerCommand::Step& message);
StopCommand StopFromProto(const v1::WorkerCommand::StopSequence& message);

// Events.
v1::WorkerEvent WorkerEventToProto(const WorkerEvent& event);
// Makes the message of a StepDone without a copy of the tokens.
v1::WorkerEvent StepDoneToProto(StepId step, std::span<const SequenceTokens> tokens, double step_s);
// INVALID_ARGUMENT: no event set, or a description with an unknown role.
absl::StatusOr<WorkerEvent> WorkerEventFromProto(const v1::WorkerEvent& message);

}  // namespace tributary

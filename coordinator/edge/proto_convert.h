// The coordinator's messages <-> its core's events and actions.
#pragma once

#include "absl/status/statusor.h"
#include "coordinator/core/coordinator_core.h"
#include "coordinator/core/coordinator_events.h"
#include "tributary/v1/coordinator.pb.h"
#include "tributary/v1/cpu_attention.pb.h"

namespace tributary {

// INVALID_ARGUMENT: unknown role or enum values.
absl::StatusOr<NodeDescription> NodeFromProto(const v1::NodeInfo& message);
absl::StatusOr<GenerateSpec> GenerateSpecFromProto(const v1::GenerateRequest& message);
// INVALID_ARGUMENT: no event set.
absl::StatusOr<Event> WorkerEventFromProto(StreamId stream, v1::WorkerEvent& message);
event::Heartbeat HeartbeatFromProto(CallId call, const v1::HeartbeatRequest& message);

v1::GenerateEvent ToProto(const action::Accepted& accepted);
v1::GenerateEvent ToProto(const action::Prefill& prefill);
v1::GenerateEvent ToProto(const action::Tokens& tokens);
v1::GenerateEvent ToProto(const RequestSummary& summary);

v1::WorkerCommand ToProto(const action::Welcome& welcome, int64_t heartbeat_interval_ns);
v1::WorkerCommand ToProto(const action::StartSequence& start);
v1::WorkerCommand ToProto(const action::ContinueSequence& turn);
v1::WorkerCommand ToProto(const action::StepCommand& step);
v1::WorkerCommand ToProto(const action::StopSequence& stop);

v1::StatusResponse ToProto(const ClusterStatus& status, int64_t now_ns);

}  // namespace tributary

// Tokens and summaries, as workers report them and clients get them.
#pragma once

#include "cluster/generate_request.h"
#include "cluster/sequence_summary.h"
#include "cluster/worker_event.h"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

v1::WorkerEvent::SequenceTokens SequenceTokensToProto(const SequenceTokens& tokens);
SequenceTokens SequenceTokensFromProto(const v1::WorkerEvent::SequenceTokens& message);

// The worker's part; the three fields of the coordinator's stay unset. Unknown dtypes become kUnset.
v1::GenerateEvent::Summary SummaryToProto(const SequenceSummary& summary);
SequenceSummary SequenceSummaryFromProto(const v1::GenerateEvent::Summary& message);
v1::GenerateEvent::Summary SummaryToProto(const RequestSummary& summary);

// What a client's stream carries.
v1::GenerateEvent GenerateEventToProto(const RequestAccepted& accepted);
v1::GenerateEvent GenerateEventToProto(const PrefillProgress& progress);
v1::GenerateEvent GenerateEventToProto(const RequestStalled& stalled);
// In as many messages of at most `max_bytes` as it takes; a single token stands alone, whatever its size.
std::vector<v1::GenerateEvent> TokenEventsToProto(const SequenceTokens& tokens, size_t max_bytes);
v1::GenerateEvent GenerateEventToProto(const RequestSummary& summary);

}  // namespace tributary

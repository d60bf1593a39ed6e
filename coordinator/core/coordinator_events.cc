#include "coordinator/core/coordinator_events.h"

#include <utility>

namespace tributary {
namespace {

struct ToEvent {
  StreamId stream;

  Event operator()(NodeDescription& node) const { return event::WorkerHello{stream, std::move(node)}; }
  Event operator()(WorkerLoad& load) const { return event::WorkerHeartbeat{stream, load}; }
  Event operator()(PrefillProgress& progress) const { return event::WorkerPrefill{stream, progress}; }
  Event operator()(SequenceTokens& tokens) const { return event::WorkerTokens{stream, std::move(tokens)}; }
  Event operator()(StepDone& done) const { return event::WorkerStepDone{stream, std::move(done)}; }
  Event operator()(SequenceEnded& ended) const { return event::WorkerEnded{stream, std::move(ended)}; }
  Event operator()(SequenceStalled& stalled) const { return event::WorkerStalled{stream, std::move(stalled)}; }
  Event operator()(SequenceResumed& resumed) const { return event::WorkerResumed{stream, resumed}; }
  Event operator()(SequenceKept& kept) const { return event::WorkerKept{stream, std::move(kept)}; }
};

}  // namespace

Event EventOf(StreamId stream, WorkerEvent word) { return std::visit(ToEvent{stream}, word); }

namespace action {

std::string_view OutcomeName(Outcome outcome) {
  switch (outcome) {
    case Outcome::kOk:
      return "ok";
    case Outcome::kCancelled:
      return "cancelled";
    case Outcome::kRejected:
      return "rejected";
    case Outcome::kFailed:
      return "failed";
  }
  return "unknown";
}

std::string_view LeaseEndName(LeaseEnd end) {
  switch (end) {
    case LeaseEnd::kContinued:
      return "continued";
    case LeaseEnd::kExpired:
      return "expired";
    case LeaseEnd::kCancelled:
      return "cancelled";
    case LeaseEnd::kLost:
      return "lost";
    case LeaseEnd::kDrained:
      return "drained";
  }
  return "unknown";
}

std::string_view RebuildCauseName(RebuildCause cause) {
  switch (cause) {
    case RebuildCause::kNode:
      return "node";
    case RebuildCause::kWorker:
      return "worker";
  }
  return "unknown";
}

std::string_view RebuildResultName(RebuildResult result) {
  switch (result) {
    case RebuildResult::kOk:
      return "ok";
    case RebuildResult::kFailed:
      return "failed";
    case RebuildResult::kCancelled:
      return "cancelled";
    case RebuildResult::kRefused:
      return "refused";
  }
  return "unknown";
}

}  // namespace action
}  // namespace tributary

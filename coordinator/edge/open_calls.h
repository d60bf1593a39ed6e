// The calls and streams that are open, by the number that the core knows them by. Thread-safe.
#pragma once

#include <map>

#include "absl/status/status.h"
#include "base/mutex.h"
#include "coordinator/core/coordinator_events.h"
#include "fmt/format.h"
#include "google/protobuf/message.h"
#include "grpcpp/support/server_callback.h"
#include "proto/outside_strings.h"

namespace tributary {

// The live reactors of one kind, by id. A reactor leaves before it deletes itself, and calls are made under the lock,
// so that none is made to a deleted one.
template <typename Id, typename Reactor>
class ReactorRegistry {
 public:
  void Add(Id id, Reactor* reactor) {
    MutexLock lock(&mutex_);
    reactors_[id] = reactor;
  }
  void Remove(Id id) {
    MutexLock lock(&mutex_);
    reactors_.erase(id);
  }
  size_t size() {
    MutexLock lock(&mutex_);
    return reactors_.size();
  }
  template <typename Use>
  void With(Id id, Use use) {
    MutexLock lock(&mutex_);
    if (const auto it = reactors_.find(id); it != reactors_.end()) use(*it->second);
  }

 private:
  Mutex mutex_;
  std::map<Id, Reactor*> reactors_ ABSL_GUARDED_BY(mutex_);
};

// What is asked before anything of a call is kept: its text is bounded, and there are not too many such calls.
inline absl::Status CheckEntry(const google::protobuf::Message& request, size_t num_calls = 0, size_t max_calls = 1) {
  if (num_calls > max_calls) {
    return absl::ResourceExhaustedError(
        fmt::format("{} such calls are open; at most {} may be: try again later", num_calls, max_calls));
  }
  return CheckOutsideStrings(request);
}

// A unary call whose answer the core gives.
template <typename Response>
struct UnaryCall {
  grpc::ServerUnaryReactor* reactor = nullptr;
  Response* response = nullptr;
};

template <typename Response>
class UnaryCalls {
 public:
  void Add(CallId id, UnaryCall<Response> call) {
    MutexLock lock(&mutex_);
    calls_[id] = call;
  }
  UnaryCall<Response> Take(CallId id) {
    MutexLock lock(&mutex_);
    const auto it = calls_.find(id);
    UnaryCall<Response> call = it->second;
    calls_.erase(it);
    return call;
  }

 private:
  Mutex mutex_;
  std::map<CallId, UnaryCall<Response>> calls_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tributary

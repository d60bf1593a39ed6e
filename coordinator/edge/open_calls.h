// The calls and streams that are open, by the number that the core knows them by. Thread-safe.
#pragma once

#include <map>
#include <mutex>

#include "coordinator/core/coordinator_events.h"
#include "grpcpp/support/server_callback.h"

namespace tributary {

// The live reactors of one kind, by id. A reactor leaves before it deletes itself, and calls are made under the lock,
// so that none is made to a deleted one.
template <typename Id, typename Reactor>
class ReactorRegistry {
 public:
  void Add(Id id, Reactor* reactor) {
    std::lock_guard lock(mutex_);
    reactors_[id] = reactor;
  }
  void Remove(Id id) {
    std::lock_guard lock(mutex_);
    reactors_.erase(id);
  }
  template <typename Use>
  void With(Id id, Use use) {
    std::lock_guard lock(mutex_);
    if (const auto it = reactors_.find(id); it != reactors_.end()) use(*it->second);
  }

 private:
  std::mutex mutex_;
  std::map<Id, Reactor*> reactors_;
};

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
    std::lock_guard lock(mutex_);
    calls_[id] = call;
  }
  UnaryCall<Response> Take(CallId id) {
    std::lock_guard lock(mutex_);
    const auto it = calls_.find(id);
    UnaryCall<Response> call = it->second;
    calls_.erase(it);
    return call;
  }

 private:
  std::mutex mutex_;
  std::map<CallId, UnaryCall<Response>> calls_;
};

}  // namespace tributary

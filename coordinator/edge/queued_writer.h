// A server-side stream that may be written to from any thread: gRPC takes one write at a time, so the others wait here.
//
// Lifetime: gRPC may destroy the reactor as soon as Finish() was called and no reaction runs. Push() and End() from
// outside reactions are therefore made under a lock that the reactor's OnDone() takes before it deletes itself
// (open_calls.h).
#pragma once

#include <deque>
#include <optional>
#include <utility>

#include "base/mutex.h"
#include "grpcpp/support/server_callback.h"

namespace tributary {

// Reactor: grpc::ServerWriteReactor<Message> or grpc::ServerBidiReactor<..., Message>.
template <typename Reactor, typename Message>
class QueuedWriter : public Reactor {
 public:
  // Dropped once the stream is broken or ended.
  void Push(Message message) {
    MutexLock lock(&mutex_);
    if (broken_ || end_) return;
    // The front one may be on its way; any other may still grow.
    if (queue_.size() > 1 && MergeInto(queue_.back(), message)) return;
    queue_.push_back(std::move(message));
    if (queue_.size() == 1) this->StartWrite(&queue_.front());
  }

  // Finishes once everything is written. The first status counts.
  void End(grpc::Status status) {
    MutexLock lock(&mutex_);
    if (end_) return;
    end_ = std::move(status);
    if (queue_.empty()) this->Finish(*end_);
  }

 protected:
  // Appends `next` to a message that waits, so that a slow reader costs no memory. False: `next` must stand alone.
  virtual bool MergeInto(Message& waiting, const Message& next) { return false; }

 private:
  void OnWriteDone(bool ok) final {
    MutexLock lock(&mutex_);
    queue_.pop_front();
    if (!ok) {
      broken_ = true;
      queue_.clear();
    }
    if (!queue_.empty()) {
      this->StartWrite(&queue_.front());
    } else if (end_) {
      this->Finish(*end_);
    }
  }

  Mutex mutex_;
  // The front one is being written; references into a deque survive push_back.
  std::deque<Message> queue_ ABSL_GUARDED_BY(mutex_);
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tributary

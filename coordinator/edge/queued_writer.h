// A server-side stream that may be written to from any thread: gRPC takes one write at a time, so the others wait here,
// up to a bound that a stream may set.
//
// Lifetime: gRPC may destroy the reactor as soon as Finish() was called and no reaction runs. Push() and End() from
// outside reactions are therefore made under a lock that the reactor's OnDone() takes before it deletes itself
// (open_calls.h).
#pragma once

#include <cstddef>
#include <deque>
#include <limits>
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
    const size_t bytes = message.ByteSizeLong();
    // The front one may be on its way; any other may still grow.
    const size_t merged = queue_.size() > 1 ? MergeInto(queue_.back().message, queue_.back().bytes, message, bytes) : 0;
    if (merged > 0) {
      queued_bytes_ += merged - queue_.back().bytes;
      queue_.back().bytes = merged;
    } else {
      queue_.push_back({std::move(message), bytes});
      queued_bytes_ += bytes;
    }
    if (queue_.size() == 1) {
      this->StartWrite(&queue_.front().message);
    } else if (queued_bytes_ > MaxQueuedBytes()) {
      end_ = OnOverflow(queued_bytes_);
      DropWaiting();
    }
  }

  // Finishes once everything is written. The first status counts.
  void End(grpc::Status status) {
    MutexLock lock(&mutex_);
    if (end_) return;
    end_ = std::move(status);
    if (queue_.empty()) this->Finish(*end_);
  }

 protected:
  // Appends `next` to a message that waits, so that a slow reader costs little memory. Returns the bytes of both
  // together; 0: `next` must stand alone.
  virtual size_t MergeInto(Message& waiting, size_t waiting_bytes, const Message& next, size_t next_bytes) { return 0; }
  // What may wait, the message on its way included. Beyond it the stream ends as OnOverflow() says, and what waits is
  // dropped: who does not read gets the front message, then the status.
  virtual size_t MaxQueuedBytes() const { return std::numeric_limits<size_t>::max(); }
  // Called once, under the stream's lock.
  virtual grpc::Status OnOverflow(size_t queued_bytes) { return grpc::Status::OK; }

 private:
  struct Queued {
    Message message;
    size_t bytes = 0;  // of the message, or a little more
  };

  void OnWriteDone(bool ok) final {
    MutexLock lock(&mutex_);
    queued_bytes_ -= queue_.front().bytes;
    queue_.pop_front();
    if (!ok) {
      broken_ = true;
      queue_.clear();
      queued_bytes_ = 0;
    }
    if (!queue_.empty()) {
      this->StartWrite(&queue_.front().message);
    } else if (end_) {
      this->Finish(*end_);
    }
  }

  // All but the front one, which is being written.
  void DropWaiting() ABSL_EXCLUSIVE_LOCKS_REQUIRED(mutex_) {
    while (queue_.size() > 1) queue_.pop_back();
    queued_bytes_ = queue_.front().bytes;
  }

  Mutex mutex_;
  // The front one is being written; references into a deque survive push_back and pop_back.
  std::deque<Queued> queue_ ABSL_GUARDED_BY(mutex_);
  size_t queued_bytes_ ABSL_GUARDED_BY(mutex_) = 0;
  std::optional<grpc::Status> end_ ABSL_GUARDED_BY(mutex_);
  bool broken_ ABSL_GUARDED_BY(mutex_) = false;
};

}  // namespace tributary

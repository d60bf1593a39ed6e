// The sequences that wait for a place, strictly in order of arrival: a large request is never overtaken for ever by
// small ones. And what a client that finds no place is told about coming back. Pure; thread-compatible.
#pragma once

#include <cstddef>
#include <cstdint>
#include <deque>

#include "base/ids.h"

namespace tributary {

class RequestQueue {
 public:
  explicit RequestQueue(size_t max_waiting) : max_waiting_(max_waiting) {}

  bool empty() const { return waiting_.empty(); }
  size_t size() const { return waiting_.size(); }
  // Those who had their place do not count.
  bool full() const { return waiting_.size() - num_returned_ >= max_waiting_; }
  // REQUIRES: not empty.
  SequenceId front() const { return waiting_.front(); }
  // They stand in the order of arrival.
  const std::deque<SequenceId>& waiting() const { return waiting_; }

  // Beyond max_waiting, too: a request that starts at once passes through.
  void Push(SequenceId sequence) { waiting_.push_back(sequence); }
  // One that had its place before those who wait now, but for others of its kind.
  void PushFront(SequenceId sequence);
  // Nothing happens for one that does not wait.
  void Remove(SequenceId sequence);

  // A request has ended well after so long; the running mean decides how long others are told to wait.
  void OnFinished(double duration_s) { mean_duration_s_ = 0.8 * mean_duration_s_ + 0.2 * duration_s; }
  // When a refused client should come back.
  int64_t RetryDelay(size_t num_placed) const;

 private:
  const size_t max_waiting_;
  std::deque<SequenceId> waiting_;
  size_t num_returned_ = 0;  // the first so many of them came by PushFront
  double mean_duration_s_ = 1.0;
};

}  // namespace tributary

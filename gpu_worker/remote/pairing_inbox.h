// Where sessions arrive that other threads have paired: the loop takes them from here. Thread-safe.
#pragma once

#include <cstdint>
#include <utility>
#include <vector>

#include "base/mutex.h"
#include "gpu_worker/remote/node_connector.h"
#include "transport/data_plane.h"

namespace tributary {

class PairingInbox {
 public:
  struct Pairing {
    uint64_t attempt = 0;
    absl::StatusOr<NodeSession> session;
  };

  // The loop sleeps on the data plane, which outlives this or is taken away with Close().
  explicit PairingInbox(DataPlane* data_plane) : data_plane_(data_plane) {}

  void Put(Pairing pairing) {
    MutexLock lock(&mutex_);
    if (data_plane_ == nullptr) return;
    pairings_.push_back(std::move(pairing));
    data_plane_->Wake();
  }
  std::vector<Pairing> TakeAll() {
    MutexLock lock(&mutex_);
    return std::exchange(pairings_, {});
  }
  // What comes later is dropped.
  void Close() {
    MutexLock lock(&mutex_);
    data_plane_ = nullptr;
  }

 private:
  Mutex mutex_;
  DataPlane* data_plane_ ABSL_GUARDED_BY(mutex_);
  std::vector<Pairing> pairings_ ABSL_GUARDED_BY(mutex_);
};

}  // namespace tributary

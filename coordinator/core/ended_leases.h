// Why kept sequences are not kept any more, so that a client that comes late is told. Remembers the
// last limits::kMaxRememberedLeases. Thread-compatible.
#pragma once

#include <deque>
#include <string>

#include "absl/container/flat_hash_map.h"
#include "base/limits.h"

namespace tributary {

class EndedLeases {
 public:
  void Add(const std::string& request_id, std::string why) {
    if (!why_.insert_or_assign(request_id, std::move(why)).second) return;
    order_.push_back(request_id);
    if (order_.size() <= limits::kMaxRememberedLeases) return;
    why_.erase(order_.front());
    order_.pop_front();
  }

  // Null if it is not known.
  const std::string* Find(const std::string& request_id) const {
    const auto it = why_.find(request_id);
    return it == why_.end() ? nullptr : &it->second;
  }

 private:
  std::deque<std::string> order_;
  absl::flat_hash_map<std::string, std::string> why_;
};

}  // namespace tributary

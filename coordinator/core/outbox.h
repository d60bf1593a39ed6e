// The actions of one step of the core, in the order in which they are to be carried out. Thread-compatible.
#pragma once

#include <utility>
#include <vector>

#include "coordinator/core/coordinator_events.h"
#include "fmt/format.h"

namespace tributary {

class Outbox {
 public:
  void Push(Action action) { actions_.push_back(std::move(action)); }

  template <typename... Args>
  void Info(fmt::format_string<Args...> format, Args&&... args) {
    Push(action::Log{action::Log::Level::kInfo, fmt::format(format, std::forward<Args>(args)...)});
  }
  template <typename... Args>
  void Warn(fmt::format_string<Args...> format, Args&&... args) {
    Push(action::Log{action::Log::Level::kWarn, fmt::format(format, std::forward<Args>(args)...)});
  }

  // All since the last call.
  std::vector<Action> Take() { return std::exchange(actions_, {}); }

 private:
  std::vector<Action> actions_;
};

}  // namespace tributary

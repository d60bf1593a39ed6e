// Records the stages of decode steps and writes them as a Chrome trace (chrome://tracing,
// ui.perfetto.dev).
//
// The recorder is a ring reserved at start: the latest spans win. Off (the default) it costs one
// branch.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "base/clock.h"

namespace tributary {

// Thread-compatible: one thread records and writes.
class StepTrace {
 public:
  struct Span {
    const char* name = "";  // static storage
    uint32_t lane = 0;      // row in the viewer: 0 for the worker's loop, one per CPU node
    int32_t layer = -1;     // -1: none
    uint64_t step_id = 0;
    int64_t begin_ns = 0;
    int64_t end_ns = 0;
  };

  StepTrace() = default;  // off
  explicit StepTrace(size_t capacity_spans) { ring_.reserve(capacity_spans); }

  bool on() const { return ring_.capacity() != 0; }
  void Add(const Span& span) {
    if (!on()) return;
    if (ring_.size() < ring_.capacity()) {
      ring_.push_back(span);
    } else {
      ring_[next_] = span;
      next_ = next_ + 1 == ring_.size() ? 0 : next_ + 1;
    }
    ++num_added_;
  }

  // Shown instead of the lane's number.
  void NameLane(uint32_t lane, std::string name);

  size_t size() const { return ring_.size(); }
  uint64_t num_dropped() const { return num_added_ - ring_.size(); }

  // Replaces the file. UNAVAILABLE with the path if it cannot be written; nothing is written when
  // off.
  absl::Status WriteChromeTrace(const std::string& path, const std::string& process_name) const;

 private:
  std::vector<Span> ring_;
  size_t next_ = 0;  // oldest span once the ring is full
  uint64_t num_added_ = 0;
  std::vector<std::pair<uint32_t, std::string>> lane_names_;
};

// Adds a span from construction to destruction.
class ScopedSpan {
 public:
  ScopedSpan(StepTrace& trace, const Clock& clock, const char* name, uint64_t step_id, int32_t layer = -1,
             uint32_t lane = 0)
      : trace_(trace), clock_(clock), span_{name, lane, layer, step_id, trace.on() ? clock.NowNs() : 0, 0} {}
  ~ScopedSpan() {
    if (!trace_.on()) return;
    span_.end_ns = clock_.NowNs();
    trace_.Add(span_);
  }
  ScopedSpan(const ScopedSpan&) = delete;
  ScopedSpan& operator=(const ScopedSpan&) = delete;

 private:
  StepTrace& trace_;
  const Clock& clock_;
  StepTrace::Span span_;
};

}  // namespace tributary

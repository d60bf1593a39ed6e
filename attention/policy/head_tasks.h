// Deals KV heads out to CPU tasks by the bytes that each will read. HGCA splits the heads of a request into groups of
// equal head count and pads each to its largest head; with one selection per KV head that differ by an order of magnitude,
// the slowest group would set the pace, so here the bytes are balanced instead.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace tributary {

// Longest processing time first (Graham 1969): heads by falling bytes, each to the task with the least so far. No task gets
// more than 4/3 of the best possible maximum. Deterministic: ties go to the lower head and the lower task. Which task reads
// a head never shows in a result; this decides time alone.
//
// Thread-compatible. Allocates only when a call is larger than every one before it.
class HeadTaskBalancer {
 public:
  // task_of_head[i] in [0, num_tasks). REQUIRES (checked): num_tasks > 0, spans of equal size.
  void Assign(std::span<const uint64_t> head_bytes, uint32_t num_tasks,
              std::span<uint32_t> task_of_head);
  // Bytes of each task of the last Assign().
  std::span<const uint64_t> task_bytes() const { return task_bytes_; }

 private:
  std::vector<uint32_t> order_;
  std::vector<uint64_t> task_bytes_;
};

}  // namespace tributary

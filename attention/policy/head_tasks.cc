#include "attention/policy/head_tasks.h"

#include <algorithm>
#include <numeric>

#include "base/check.h"

namespace tributary {

void HeadTaskBalancer::Assign(std::span<const uint64_t> head_bytes, uint32_t num_tasks,
                              std::span<uint32_t> task_of_head) {
  TRIBUTARY_CHECK_GT(num_tasks, 0u);
  TRIBUTARY_CHECK_EQ(head_bytes.size(), task_of_head.size());
  order_.resize(head_bytes.size());
  std::iota(order_.begin(), order_.end(), 0u);
  std::sort(order_.begin(), order_.end(), [head_bytes](uint32_t a, uint32_t b) {
    return head_bytes[a] != head_bytes[b] ? head_bytes[a] > head_bytes[b] : a < b;
  });
  task_bytes_.assign(num_tasks, 0);
  for (const uint32_t head : order_) {
    const auto least = std::min_element(task_bytes_.begin(), task_bytes_.end());
    *least += head_bytes[head];
    task_of_head[head] = static_cast<uint32_t>(least - task_bytes_.begin());
  }
}

}  // namespace tributary

#include "attention/kv/hadamard.h"

#include <cmath>

namespace tributary {

void HadamardRotate(float* row, uint32_t head_dim) {
  const uint32_t block = head_dim & (~head_dim + 1);
  const float norm = 1.0f / std::sqrt(static_cast<float>(block));
  for (uint32_t half = 1; half < block; half *= 2) {
    for (uint32_t first = 0; first < head_dim; first += 2 * half) {
      for (uint32_t i = first; i < first + half; ++i) {
        const float low = row[i], high = row[i + half];
        row[i] = low + high;
        row[i + half] = low - high;
      }
    }
  }
  for (uint32_t d = 0; d < head_dim; ++d) row[d] *= norm;
}

}  // namespace tributary

#include "base/random_id.h"

#include <sys/random.h>

#include <cerrno>
#include <random>

#include "base/check.h"

namespace tributary {

void FillRandom(std::span<std::byte> bytes) {
  while (!bytes.empty()) {
    const ssize_t count = getrandom(bytes.data(), bytes.size(), 0);
    if (count < 0 && errno == EINTR) continue;
    TRIBUTARY_CHECK_GT(count, 0);
    bytes = bytes.subspan(static_cast<size_t>(count));
  }
}

uint64_t RandomId() {
  uint64_t id = 0;
  while (id == 0) FillRandom(std::as_writable_bytes(std::span(&id, 1)));
  return id;
}

IdSource SeededIds(uint64_t seed) {
  return [random = std::mt19937_64(seed)]() mutable {
    uint64_t id = 0;
    while (id == 0) id = random();
    return id;
  };
}

}  // namespace tributary

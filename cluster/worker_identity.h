// One run of a GPU worker: a worker that is started again is another one to whoever has granted it something.
#pragma once

#include <cstdint>
#include <string>

namespace tributary {

struct WorkerIdentity {
  std::string id;
  uint64_t incarnation = 0;

  friend bool operator==(const WorkerIdentity&, const WorkerIdentity&) = default;
};

}  // namespace tributary

#include "gpu_worker/engine/sequence_table.h"

#include <utility>

#include "base/check.h"

namespace tributary {

Sequence* SequenceTable::Find(SequenceId id) const {
  const auto it = sequences_.find(id);
  return it == sequences_.end() ? nullptr : it->second.get();
}

Sequence& SequenceTable::Add(std::unique_ptr<Sequence> sequence) {
  const SequenceId id = sequence->id();
  const auto [it, added] = sequences_.emplace(id, std::move(sequence));
  TRIBUTARY_CHECK(added);
  return *it->second;
}

std::unique_ptr<Sequence> SequenceTable::Remove(SequenceId id) {
  const auto it = sequences_.find(id);
  TRIBUTARY_CHECK(it != sequences_.end());
  std::unique_ptr<Sequence> removed = std::move(it->second);
  sequences_.erase(it);
  return removed;
}

}  // namespace tributary

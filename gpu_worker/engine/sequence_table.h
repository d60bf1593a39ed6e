// The sequences that the engine has, by id.
//
// Owns them: a pointer that Find() or Add() gave is good until Remove() of its id. They are visited in order of id, so
// that nothing depends on hashing. Thread-compatible.
#pragma once

#include <cstddef>
#include <map>
#include <memory>

#include "absl/status/status.h"
#include "base/ids.h"
#include "gpu_worker/engine/sequence.h"

namespace tributary {

class SequenceTable {
 public:
  // Null if it is not there.
  Sequence* Find(SequenceId id) const;
  // REQUIRES (checked): no sequence has its id.
  Sequence& Add(std::unique_ptr<Sequence> sequence);
  // REQUIRES (checked): it is there.
  std::unique_ptr<Sequence> Remove(SequenceId id);

  bool empty() const { return sequences_.empty(); }
  size_t size() const { return sequences_.size(); }
  // REQUIRES: not empty.
  Sequence& front() const { return *sequences_.begin()->second; }

  // Calls visit(Sequence&) for each, in order of id. It may not add or remove any.
  template <typename Visit>
  void ForEach(Visit&& visit) const {
    for (const auto& [id, sequence] : sequences_) visit(*sequence);
  }
  // How many fulfil it.
  template <typename Predicate>
  size_t Count(Predicate&& predicate) const {
    size_t count = 0;
    ForEach([&](const Sequence& sequence) { count += predicate(sequence) ? 1 : 0; });
    return count;
  }

 private:
  std::map<SequenceId, std::unique_ptr<Sequence>> sequences_;
};

}  // namespace tributary

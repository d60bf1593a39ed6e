#include "coordinator/core/sequence_table.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tributary {

std::string_view SequencePhaseName(SequencePhase state) {
  switch (state) {
    case SequencePhase::kQueued:
      return "queued";
    case SequencePhase::kOpening:
      return "opening";
    case SequencePhase::kPrefilling:
      return "prefilling";
    case SequencePhase::kDecoding:
      return "decoding";
    case SequencePhase::kKept:
      return "kept";
    case SequencePhase::kStopping:
      return "stopping";
  }
  return "unknown";
}

SequenceEntry* SequenceTable::Add(SequenceEntry sequence) {
  const SequenceId id = sequence.id;
  by_request_[sequence.request_id] = id;
  if (sequence.client) by_client_[*sequence.client] = id;
  auto [it, inserted] = sequences_.emplace(id, std::make_unique<SequenceEntry>(std::move(sequence)));
  TRIBUTARY_CHECK(inserted);
  return it->second.get();
}

void SequenceTable::Erase(SequenceId id) {
  const auto it = sequences_.find(id);
  TRIBUTARY_CHECK(it != sequences_.end());
  DetachClient(*it->second);
  ForgetName(*it->second);
  sequences_.erase(it);
}

SequenceEntry* SequenceTable::Find(SequenceId id) {
  const auto it = sequences_.find(id);
  return it == sequences_.end() ? nullptr : it->second.get();
}

SequenceEntry* SequenceTable::FindByRequest(const std::string& request_id) {
  const auto it = by_request_.find(request_id);
  return it == by_request_.end() ? nullptr : Find(it->second);
}

SequenceEntry* SequenceTable::FindByClient(CallId client) {
  const auto it = by_client_.find(client);
  return it == by_client_.end() ? nullptr : Find(it->second);
}

std::vector<SequenceId> SequenceTable::Ids() const {
  std::vector<SequenceId> ids;
  ids.reserve(sequences_.size());
  for (const auto& [id, sequence] : sequences_) ids.push_back(id);
  return ids;
}

size_t SequenceTable::CountIf(SequencePhase state) const {
  return static_cast<size_t>(std::count_if(sequences_.begin(), sequences_.end(),
                                           [&](const auto& item) { return item.second->state == state; }));
}

void SequenceTable::AttachClient(SequenceEntry& sequence, CallId client) {
  TRIBUTARY_CHECK(!sequence.client.has_value());
  sequence.client = client;
  by_client_[client] = sequence.id;
}

void SequenceTable::ForgetName(const SequenceEntry& sequence) {
  // A later request may have taken the name once this client was answered.
  const auto it = by_request_.find(sequence.request_id);
  if (it != by_request_.end() && it->second == sequence.id) by_request_.erase(it);
}

void SequenceTable::DetachClient(SequenceEntry& sequence) {
  if (sequence.state != SequencePhase::kKept) ForgetName(sequence);
  if (sequence.client) by_client_.erase(*sequence.client);
  sequence.client.reset();
}

}  // namespace tributary

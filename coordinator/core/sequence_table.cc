#include "coordinator/core/sequence_table.h"

#include <algorithm>
#include <utility>

#include "base/check.h"

namespace tributary {

SequenceEntry* SequenceTable::Add(SequenceEntry sequence) {
  const SequenceId id = sequence.id;
  const bool is_new = arrival_of_.emplace(id, ++last_arrival_).second;
  TRIBUTARY_CHECK(is_new);
  by_request_[sequence.request_id] = id;
  if (sequence.client) by_client_[*sequence.client] = id;
  return sequences_.emplace(last_arrival_, std::make_unique<SequenceEntry>(std::move(sequence))).first->second.get();
}

void SequenceTable::Erase(SequenceId id) {
  const auto it = arrival_of_.find(id);
  TRIBUTARY_CHECK(it != arrival_of_.end());
  SequenceEntry& sequence = *sequences_.at(it->second);
  DetachClient(sequence);
  ForgetName(sequence);
  sequences_.erase(it->second);
  arrival_of_.erase(it);
}

SequenceEntry* SequenceTable::Find(SequenceId id) {
  const auto it = arrival_of_.find(id);
  return it == arrival_of_.end() ? nullptr : sequences_.at(it->second).get();
}

SequenceEntry* SequenceTable::FindByRequest(const std::string& request_id) {
  const auto it = by_request_.find(request_id);
  return it == by_request_.end() ? nullptr : Find(it->second);
}

SequenceEntry* SequenceTable::FindByClient(CallId client) {
  const auto it = by_client_.find(client);
  return it == by_client_.end() ? nullptr : Find(it->second);
}

SequenceEntry* SequenceTable::FindOn(StreamId stream, SequenceId id) {
  SequenceEntry* sequence = Find(id);
  return sequence != nullptr && sequence->worker == stream ? sequence : nullptr;
}

std::vector<SequenceId> SequenceTable::Ids() const {
  std::vector<SequenceId> ids;
  ids.reserve(sequences_.size());
  for (const auto& [arrival, sequence] : sequences_) ids.push_back(sequence->id);
  return ids;
}

size_t SequenceTable::CountIf(SequencePhase phase) const {
  return static_cast<size_t>(std::count_if(sequences_.begin(), sequences_.end(),
                                           [&](const auto& item) { return item.second->phase() == phase; }));
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
  if (!sequence.is_kept()) ForgetName(sequence);
  if (sequence.client) by_client_.erase(*sequence.client);
  sequence.client.reset();
}

}  // namespace tributary

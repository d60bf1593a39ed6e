// The sequences that the coordinator knows, from arrival to release. Thread-compatible.
//
//   queued -> opening (shards) -> prefilling -> decoding -> (gone)
//                                     ^            |
//                                     +-- kept <---+
//                 any of them -> stopping -> (gone)
//
// `prefilling` is the wait for a turn's first token: of a later turn, while its tokens are appended.
// `stopping` waits for the worker's word that it has let go, so that no shard is closed under a
// step that reads it.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "absl/status/status.h"
#include "base/ids.h"
#include "coordinator/core/coordinator_events.h"
#include "coordinator/core/placement.h"
#include "coordinator/core/request.h"

namespace tributary {

enum class SequencePhase { kQueued, kOpening, kPrefilling, kDecoding, kKept, kStopping };
std::string_view SequencePhaseName(SequencePhase state);

struct SequenceEntry {
  SequenceId id;
  Epoch epoch;
  SequencePhase state = SequencePhase::kQueued;
  std::optional<CallId> client;  // none: the client is gone or was answered
  std::string request_id;
  GenerateSpec spec;  // the prompt moves out when the sequence starts
  Demand demand;

  std::optional<StreamId> worker;  // from kOpening on
  std::string worker_id;
  uint64_t resident_bytes = 0;
  std::vector<ShardPlacement> shards;  // with their living holders; the ledger has the state of each
  uint32_t holders_opening = 0;

  // Of all turns.
  KeepOptions keep;                      // as asked for the turn that runs or ran last
  uint64_t reserved_context_tokens = 0;  // what the memory is for: prompts and answers
  uint64_t context_tokens = 0;           // prompts and answers that are there
  uint64_t num_turns = 1;
  int64_t kept_until_ns = 0;  // while it is kept
  bool lease_ended = false;   // it is not to be continued any more

  // Of the turn that runs or ran last.
  uint64_t generated_tokens = 0;
  int64_t received_ns = 0;
  int64_t placed_ns = 0;
  int64_t started_ns = 0;
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
  int64_t stopping_since_ns = 0;
};

class SequenceTable {
 public:
  // The pointer stays valid until Erase.
  SequenceEntry* Add(SequenceEntry sequence);
  void Erase(SequenceId id);

  SequenceEntry* Find(SequenceId id);
  SequenceEntry* FindByRequest(const std::string& request_id);
  SequenceEntry* FindByClient(CallId client);

  // In the order of arrival.
  const std::map<SequenceId, std::unique_ptr<SequenceEntry>>& all() const { return sequences_; }
  std::vector<SequenceId> Ids() const;
  size_t size() const { return sequences_.size(); }
  size_t CountIf(SequencePhase state) const;

  // A client takes up a kept sequence.
  void AttachClient(SequenceEntry& sequence, CallId client);
  // The client gets nothing any more. A sequence that is not kept loses its name, too.
  void DetachClient(SequenceEntry& sequence);
  // FindByRequest does not find it any more.
  void ForgetName(const SequenceEntry& sequence);

 private:
  std::map<SequenceId, std::unique_ptr<SequenceEntry>> sequences_;
  absl::flat_hash_map<std::string, SequenceId> by_request_;
  absl::flat_hash_map<CallId, SequenceId> by_client_;
};

}  // namespace tributary

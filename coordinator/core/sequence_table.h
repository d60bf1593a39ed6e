// The sequences that the coordinator knows, from arrival to release, with what is known of each. Thread-compatible.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/ids.h"
#include "cluster/generate_request.h"
#include "cluster/shard_placement.h"
#include "coordinator/core/coordinator_events.h"
#include "coordinator/core/placement.h"
#include "coordinator/core/sequence_lifecycle.h"

namespace tributary {

// Why a sequence stands still, if it does (SequenceStalls).
struct SequenceStallCauses {
  std::string node_id;                 // silent, as its worker says; "" if none is
  bool worker_silent = false;          // as we see it
  int64_t worker_silent_since_ns = 0;  // patient time
  bool told = false;                   // to the client
};

struct SequenceEntry {
  SequenceId id;
  Epoch epoch;
  SequenceLifecycle life;
  std::optional<CallId> client;  // none: the client is gone or was answered
  std::string request_id;
  GenerateSpec spec;  // what starts it is dropped with the first token; until then it may have to start elsewhere
  Demand demand;

  std::optional<StreamId> worker;  // from kOpening on; none once it is gone
  std::string worker_id;
  bool placed_anew = false;  // its first place came to nothing
  uint64_t resident_bytes = 0;
  std::vector<ShardPlacement> shards;  // with their living holders; ShardKeeper has the state of each

  // These count all turns.
  uint64_t reserved_context_tokens = 0;  // what the memory is for: prompts and answers
  uint64_t context_tokens = 0;           // prompts and answers that are there
  uint64_t num_turns = 1;

  // These are of the turn that runs or ran last.
  uint64_t generated_tokens = 0;
  int64_t max_stall_ns = 0;
  SequenceStallCauses stall;
  int64_t received_ns = 0;
  int64_t placed_ns = 0;
  int64_t started_ns = 0;
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
  int64_t stopping_since_ns = 0;

  SequencePhase phase() const { return life.phase(); }
};

class SequenceTable {
 public:
  // The pointer stays valid until Erase. REQUIRES: the id is new.
  SequenceEntry* Add(SequenceEntry sequence);
  void Erase(SequenceId id);

  SequenceEntry* Find(SequenceId id);
  SequenceEntry* FindByRequest(const std::string& request_id);
  SequenceEntry* FindByClient(CallId client);
  // The sequence, if it is on the worker of this stream.
  SequenceEntry* FindOn(StreamId stream, SequenceId id);

  // Returns them in the order of arrival, as they are now: they may be erased meanwhile.
  std::vector<SequenceId> Ids() const;
  // Likewise; Use takes a const SequenceEntry&.
  template <typename Use>
  void ForEach(Use use) const {
    for (const auto& [arrival, sequence] : sequences_) use(*sequence);
  }
  size_t size() const { return sequences_.size(); }
  size_t CountIf(SequencePhase phase) const;

  // A client takes up a kept sequence.
  void AttachClient(SequenceEntry& sequence, CallId client);
  // The client gets nothing any more. A sequence that is not kept loses its name, too.
  void DetachClient(SequenceEntry& sequence);
  // FindByRequest does not find it any more.
  void ForgetName(const SequenceEntry& sequence);

 private:
  uint64_t last_arrival_ = 0;
  std::map<uint64_t, std::unique_ptr<SequenceEntry>> sequences_;  // by arrival: ids say nothing
  absl::flat_hash_map<SequenceId, uint64_t> arrival_of_;
  absl::flat_hash_map<std::string, SequenceId> by_request_;
  absl::flat_hash_map<CallId, SequenceId> by_client_;
};

}  // namespace tributary

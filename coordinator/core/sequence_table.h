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
  bool rebuilding = false;             // KV of it is lost (SequenceRebuilds)
  bool told = false;                   // to the client
  int64_t told_ns = 0;                 // since when, patient time
};

// What has been lost of a sequence, and how far it is to come back (SequenceRebuilds).
struct SequenceRebuild {
  std::optional<action::RebuildCause> cause;  // from the loss to the next token
  action::RebuildCause lost_with = action::RebuildCause::kNode;
  std::string lost_node_id;
  std::string why;          // it was lost
  std::string why_waiting;  // for a place
  uint32_t count = 0;       // of its life
  // Patient time. Waiting is to have no place, not to compute.
  int64_t waited_ns = 0;  // since the last token, before waits_since_ns
  std::optional<int64_t> waits_since_ns;
};

struct SequenceEntry {
  SequenceId id;
  Epoch epoch;
  SequenceLifecycle life;
  std::optional<CallId> client;  // none: the client is gone or was answered
  std::string request_id;
  GenerateSpec spec;  // of a later turn: with what that one asks for
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
  bool is_between_turns = false;
  // With the spec all tokens that it has. False: more than the coordinator keeps (max_token_ids); then the spec has no
  // prompt after the first token, and what follows is empty.
  bool has_token_ids = false;
  std::vector<PastTurn> past_turns;
  SequenceRebuild rebuild;

  // These are of the turn that runs or ran last.
  uint64_t generated_tokens = 0;
  std::vector<uint32_t> answer_tokens;
  int64_t max_stall_ns = 0;
  SequenceStallCauses stall;
  int64_t received_ns = 0;
  int64_t placed_ns = 0;
  int64_t started_ns = 0;
  int64_t first_token_ns = 0;
  int64_t last_token_ns = 0;
  int64_t stopping_since_ns = 0;

  SequencePhase phase() const { return life.phase(); }
  // It can be continued, whether its KV is there or not.
  bool is_kept() const { return is_between_turns && phase() != SequencePhase::kStopping; }
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

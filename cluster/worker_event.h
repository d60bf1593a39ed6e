// What a GPU worker tells the coordinator.
#pragma once

#include <cstdint>
#include <string>
#include <variant>
#include <vector>

#include "absl/status/status.h"
#include "base/ids.h"
#include "cluster/cluster_types.h"
#include "cluster/sequence_summary.h"

namespace tributary {

// Some of the likeliest tokens of one position.
struct TopTokens {
  std::vector<uint32_t> tokens;  // likeliest first, the lower id first on a tie
  std::vector<float> logprobs;   // ln softmax(logits) of each
};

struct SequenceTokens {
  SequenceId sequence_id;
  std::vector<uint32_t> tokens;
  std::vector<float> logprobs;  // natural log, under the model (temperature 1)
  std::vector<TopTokens> top;   // of each token, if they were asked for
};

// Every now and then.
struct WorkerLoad {
  uint64_t resident_free_bytes = 0;
  uint32_t sequences = 0;
  bool draining = false;
};

struct PrefillProgress {
  SequenceId sequence_id;
  uint32_t layers_done = 0;
  uint32_t num_layers = 0;
  double fraction = 0;
};

struct StepDone {
  StepId step_id;
  std::vector<SequenceTokens> tokens;
  double step_s = 0;
};

// Finished (OK) or failed. The worker has forgotten the sequence; its shards may be closed.
struct SequenceEnded {
  SequenceId sequence_id;
  absl::Status status;
  std::string failed_node_id;  // empty unless a node is to blame
  SequenceSummary summary;
};

// A turn has ended well; the sequence stays until it is continued or stopped.
struct SequenceKept {
  SequenceId sequence_id;
  SequenceSummary summary;
};

// It waits for a node that is silent, and is left out of steps; it resumes by itself.
struct SequenceStalled {
  SequenceId sequence_id;
  std::string node_id;
};
struct SequenceResumed {
  SequenceId sequence_id;
};

// The first event of a stream is the description. Tokens by themselves are a turn's first: they end its prefill.
using WorkerEvent = std::variant<NodeDescription, WorkerLoad, PrefillProgress, SequenceTokens, StepDone, SequenceEnded,
                                 SequenceKept, SequenceStalled, SequenceResumed>;

}  // namespace tributary

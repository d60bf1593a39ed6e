// What the coordinator asks of a GPU worker: a sequence with its first turn, later turns, decode steps, stops.
#pragma once

#include <algorithm>
#include <cstdint>
#include <span>
#include <vector>

#include "base/dtype.h"
#include "base/ids.h"
#include "cluster/sampling.h"
#include "cluster/shard_placement.h"
#include "cluster/window_layout.h"
#include "policy/policy_params.h"

namespace tributary {

// One turn of a sequence: what is added to it, and what answer is asked for.
struct TurnPlan {
  std::vector<uint32_t> prompt_tokens;  // of a later turn: may be empty, the answer goes on
  uint32_t max_tokens = 0;
  SamplingParams sampling;
  std::vector<uint32_t> stop_tokens;
  // Token i of the answer is forced_tokens[i], whatever the model would pick; a forced token never stops the sequence.
  std::vector<uint32_t> forced_tokens;
  uint32_t top_logprobs = 0;  // alternatives reported with each token
  bool keep = false;          // the sequence stays when the answer has ended, for a ContinuePlan or a StopCommand
  bool ignore_eos = false;    // the model's end tokens do not stop it
  // How long it may wait for nodes that hold its KV and are silent; then it fails. 0: as long as the cluster allows.
  int64_t max_stall_ns = 0;
};

// A turn that has been, of a sequence that is rebuilt.
struct PastTurn {
  std::vector<uint32_t> prompt_tokens;
  std::vector<uint32_t> answer_tokens;
};

// The first turn, and what holds for all of them. Of a sequence that is rebuilt, because KV of it was lost: the turn
// that runs, and what there was before it.
struct SequencePlan : TurnPlan {
  SequenceId sequence_id;
  Epoch epoch;
  WindowLayout layout;
  DType kv_dtype = DType::kUnset;  // resident, and on the way to shards; those may store another
  PolicyParams policy;
  bool report_attention_heads = false;  // the summary says what each KV head read and kept
  std::vector<ShardPlacement> shards;   // empty: all resident

  // Prompts and answers of all turns together, for which memory is reserved; no more than this turn needs: for this
  // turn only.
  uint64_t reserved_context_tokens = 0;

  // Of a sequence that is rebuilt. Its KV is made again as it was made at first: the first prompt by prefill, what
  // followed by steps; so it has the same bits wherever a step's are reproducible.
  std::vector<PastTurn> past_turns;     // oldest first
  std::vector<uint32_t> answer_tokens;  // of this turn, which are there already: they are not reported again

  // What is prefilled.
  std::span<const uint32_t> first_prompt() const {
    return past_turns.empty() ? prompt_tokens : past_turns.front().prompt_tokens;
  }
  // Tokens that the KV may grow to: the last token of the last answer is never fed back.
  uint64_t max_context_tokens() const {
    return std::max<uint64_t>(reserved_context_tokens, prompt_tokens.size() + max_tokens) - 1;
  }
};

// A later turn of a sequence that was kept.
struct ContinuePlan {
  SequenceId sequence_id;
  Epoch epoch;
  TurnPlan turn;
};

// One decode step of the named sequences.
struct StepCommand {
  StepId step_id;
  int64_t timeout_ns = 0;  // 0: the worker's own
  std::vector<SequenceId> sequence_ids;
};

// Ends a sequence, whatever it does.
struct StopCommand {
  SequenceId sequence_id;
  Epoch epoch;
};

}  // namespace tributary

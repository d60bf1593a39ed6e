// Attention for the entries of one query frame: what each reads is planned (ShardSelection), all are attended to in one
// go (ShardExecutor), sampled ones are measured. What selections learn from the weights is left for Select(), so that
// the answer can be sent before.
//
//   step.Begin(layer, scale);
//   for each entry: step.Plan(...), step.SetData(its place in the answer);
//   step.Run(); send the answer; step.Select();
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/clock.h"
#include "cpu_attention_service/executor/shard_executor.h"
#include "cpu_attention_service/node/attention_metrics.h"
#include "cpu_attention_service/node/shard_registry.h"
#include "cpu_attention_service/policy/shard_selection.h"
#include "wire/frame.h"
#include "wire/frame_builder.h"

namespace tributary {

// Thread-compatible. Allocates only when a step is larger than every one before it.
class AttentionStep {
 public:
  // All outlive the step.
  AttentionStep(ShardExecutor* executor, const Clock* clock, AttentionMetrics* metrics)
      : executor_(executor), clock_(clock), metrics_(metrics) {}

  void Begin(uint32_t layer, float softmax_scale);
  // Fills in what the entry says of what is read. The query fits the shard; q and the shard stay until Select()
  // returns. A shard with a selection that is in this step already is first done with, since what it reads next depends
  // on it.
  void Plan(NodeShard* shard, const QueryEntry& query, std::span<const std::byte> q, PartialEntry* entry);
  // Of the entry planned last: filled by Run().
  void SetData(const PartialSpans& data) { works_[num_planned_ - 1].data = data; }
  void Run();
  // Needs no data of the entries any more.
  void Select();

 private:
  struct Work {
    NodeShard* shard = nullptr;
    TokenRange local;
    uint32_t n_q = 0;
    std::span<const std::byte> q;
    PartialSpans data;
    SelectionRead read;             // empty for a shard without a selection
    std::vector<float> sample_out;  // only its lse is wanted
    std::vector<float> sample_lse_ln;
    std::vector<float> lse_ln;  // of the answer, kept for the weights
  };

  ShardQuery QueryOf(const Work& work) const;
  void AddQueries(Work& work);
  void Measure(Work& work);
  void Count(const Work& work);
  void SelectBy(bool (*includes)(SelectionRead::Weights), Histogram& seconds);

  ShardExecutor* const executor_;
  const Clock* const clock_;
  AttentionMetrics* const metrics_;
  uint32_t layer_ = 0;
  float softmax_scale_ = 0;
  std::vector<Work> works_;  // those that are not planned keep their memory
  size_t num_planned_ = 0;
  size_t num_run_ = 0;
  size_t num_selected_ = 0;
  std::vector<ShardQuery> queries_;
  std::vector<float> kept_mass_;
};

}  // namespace tributary

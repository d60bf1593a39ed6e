// Attention for the entries of one query frame: what each reads is planned (ShardPolicy), all are attended to in one go
// (ShardExecutor), sampled ones are measured. What policies learn from the weights is left for Finish(), so that the
// answer can be sent before.
//
//   step.Begin();
//   for each entry: step.Plan(...), step.SetData(its place in the answer);
//   step.Run(); send the answer; step.Finish();
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "base/clock.h"
#include "cpu_attention_service/executor/shard_executor.h"
#include "cpu_attention_service/node/attention_metrics.h"
#include "cpu_attention_service/node/shard_registry.h"
#include "cpu_attention_service/policy/shard_policy.h"
#include "wire/frame_builder.h"

namespace tributary {

// Thread-compatible. Allocates only when a step is larger than every one before it.
class AttentionStep {
 public:
  // All outlive the step.
  AttentionStep(ShardExecutor* executor, const Clock* clock, AttentionMetrics* metrics);

  void Begin() { num_planned_ = num_run_ = num_finished_ = 0; }
  // The next entry. The request fits the shard; its memory and the shard stay until Finish() returns. All requests of a
  // step are of one layer and have one softmax_scale and one soft_cap. A shard with a policy's state that is in this
  // step already is first done with, since what it reads next depends on it.
  void Plan(NodeShard* shard, const ReadRequest& request);
  // Says where Run() writes the answer of the entry planned last.
  void SetData(const PartialSpans& data) { works_[num_planned_ - 1].data = data; }
  void Run();
  // Tokens that the answer of the i-th entry planned rests on, summed over the KV heads; after Run().
  uint64_t attended_head_tokens(size_t i) const { return works_[i].attended_head_tokens; }
  // Needs no data of the entries any more.
  void Finish();

 private:
  using After = ReadPlan::After;
  struct Work {
    NodeShard* shard = nullptr;
    ReadRequest request;
    PartialSpans data;
    ReadPlan plan;  // no heads for a shard without a policy's state
    uint64_t attended_head_tokens = 0;
    std::vector<float> lse_ln;  // of the answer, kept for the weights
  };

  // A KV head whose part of a plan is still to be made.
  struct HeadToPlan {
    Work* work;
    uint32_t kv_head;
    uint32_t part = 0;
  };

  std::span<Work> Unrun() { return std::span(works_).subspan(num_run_, num_planned_ - num_run_); }
  void PlanHeads();
  void PlanEach(std::span<const HeadToPlan> heads, void (*plan)(const HeadToPlan& head));
  ShardQuery QueryOf(const Work& work) const;
  void AddQueries(Work& work);
  void Complete(Work& work);
  void Measure(Work& work);
  // The answer is the sample where the plan has no other.
  static void FillSample(const Work& work);
  void Count(Work& work);
  void FinishThose(After after, Histogram& seconds);

  ShardExecutor* const executor_;
  const Clock* const clock_;
  AttentionMetrics* const metrics_;
  std::vector<Work> works_;  // those that are not planned keep their memory
  size_t num_planned_ = 0;
  size_t num_run_ = 0;
  size_t num_finished_ = 0;
  std::vector<ShardQuery> queries_;
  std::vector<float> kept_mass_;
  std::vector<HeadToPlan> heads_to_plan_;
  std::vector<HeadToPlan> heads_to_scan_;
  std::vector<HeadToPlan> parts_to_scan_;
};

}  // namespace tributary

// The moving average of attention weights (MAW) of HGCA: how salient each resident token has been of late, per KV head.
// Source: HGCA (arXiv 2507.03153), the update as in the first author's code. The paper's models have one KV head per
// query head; sharing a MAW within a group of grouped-query attention is ours.
//
// These are plain loops: a device's kernel must agree with them, and the host device runs them. Memory is borrowed, and
// nothing is allocated; sizes that do not fit together are bugs (checked).
#pragma once

#include <cstdint>
#include <span>

#include "policy/hgca/maw_update.h"

namespace tributary {

// A[t] of one KV head. `weights`: the softmax rows of the group's query heads over the resident tokens alone (not
// renormalised by the remote part), f32 [group_size][num_tokens]; a: f32 [num_tokens].
void AggregateGroup(GroupAggregate how, std::span<const float> weights, uint32_t group_size, std::span<float> a);

// maw[t] = alpha * a[t] + (1 - alpha) * maw[t] for the first num_known tokens; the others are new and start at a[t].
// What is not finite leaves no trace: where a[t] is so, maw[t] stays (a new token keeps it, and a selection keeps the
// token if it is NaN); where maw[t] is so, it starts anew at a[t]. REQUIRES (checked): equal sizes, num_known <= size.
void UpdateMaw(float alpha, std::span<const float> a, size_t num_known, std::span<float> maw);

// Re-evaluation on append: sum[t] += a[t] for one appended query; after the last, FinishQueryMean divides by their
// number. The mean is over queries of A, which is already aggregated over the group.
void AddQueryWeights(std::span<const float> a, std::span<float> sum);
void FinishQueryMean(uint64_t num_queries, std::span<float> sum);

// The same average for tokens in a context cache, in units of the uniform weight: a MAW from the window is relative to
// 1 / (resident tokens), a weight of the node's own softmax to 1 / (cached tokens), and only relative to those can the
// two be averaged. salience[t] = alpha * weights[t] * n + (1 - alpha) * salience[t], n = weights.size(). Not finite: as
// in UpdateMaw.
void UpdateCachedSalience(float alpha, std::span<const float> weights, std::span<float> salience);

// spread[t] = the largest of salience[t - keep_next .. t] (NaN is larger than every number): a token that follows a
// salient one closely is as salient. A head that copies attends to the place where a passage begins, and only then to
// what follows; a selection by its weights so far would hold the beginning alone. Our addition; keep_next = 0 is HGCA
// as published. `salience` begins with num_before tokens that are looked at but get no value: spread has
// salience.size() - num_before.
void SpreadForward(uint32_t keep_next, std::span<const float> salience, size_t num_before, std::span<float> spread);

// maw of a spilled token to the salience of a cached one.
inline float RelativeToUniform(float maw, uint64_t resident_tokens) {
  return maw * static_cast<float>(resident_tokens);
}

}  // namespace tributary

// A decode-attention call with random contents, and what it must give according to the f64 reference.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "attention/kv/kv_pack.h"
#include "attention/reference.h"
#include "base/aligned_buffer.h"
#include "base/dtype.h"
#include "cpu_attention_service/kernels/kernels.h"
#include "tests/unit/cpu_attention_service/node/random_inputs.h"

namespace tributary::testing {

struct KernelCase {
  KvStorage k_storage = KvStorage::kF32;
  KvStorage v_storage = KvStorage::kF32;
  uint32_t head_dim = 64;
  uint32_t group_size = 4;
  uint32_t n_q = 1;
  uint64_t token_begin = 0;
  uint64_t token_end = 100;
  float soft_cap = 0;
  float q_sigma = 1.0f;
  bool bf16_q = false;  // q rounded to bf16

  std::string Text() const {
    return "k " + std::to_string(static_cast<int>(k_storage)) + " v " + std::to_string(static_cast<int>(v_storage)) +
           " head_dim " + std::to_string(head_dim) + " group " + std::to_string(group_size) + " n_q " +
           std::to_string(n_q) + " tokens [" + std::to_string(token_begin) + ", " + std::to_string(token_end) +
           ") cap " + std::to_string(soft_cap) + " q sigma " + std::to_string(q_sigma);
  }
};

// Tiles of a case: the tokens of [0, token_end) are stored, every byte of the rest is 0xff (NaN in all float storages).
class KernelTiles {
 public:
  KernelTiles(const KernelCase& c, std::mt19937_64& random)
      : layout_(MakeKvTileLayout(c.k_storage, c.v_storage, c.head_dim)),
        num_tokens_(c.token_end),
        tiles_(KvTilesFor(num_tokens_) * layout_.record_bytes) {
    if (tiles_.size() != 0) std::memset(tiles_.data(), 0xff, tiles_.size());
    Store(RandomFloats(num_tokens_ * c.head_dim, random), RandomFloats(num_tokens_ * c.head_dim, random));
  }

  // Rounds to the storages, packs, and keeps what was stored.
  void Store(const std::vector<float>& k, const std::vector<float>& v) {
    const std::vector<std::byte> k_rows = Convert(layout_.k_storage, k);
    const std::vector<std::byte> v_rows = Convert(layout_.v_storage, v);
    KvPackArgs args;
    args.layout = layout_;
    args.k_source = SourceOf(layout_.k_storage);
    args.v_source = SourceOf(layout_.v_storage);
    args.k = k_rows.data();
    args.v = v_rows.data();
    args.k_stride_bytes = k_rows.size() / std::max<uint64_t>(num_tokens_, 1);
    args.v_stride_bytes = v_rows.size() / std::max<uint64_t>(num_tokens_, 1);
    args.num_tokens = static_cast<uint32_t>(num_tokens_);
    args.tiles = tiles_.data();
    PackKvPlain(args);
    k_.resize(k.size());
    v_.resize(v.size());
    UnpackKvToF32(layout_, tiles_.data(), 0, static_cast<uint32_t>(num_tokens_), k_.data(), v_.data());
  }

  const KvTileLayout& layout() const { return layout_; }
  std::byte* data() { return tiles_.data(); }
  uint64_t num_bytes() const { return tiles_.size(); }
  const std::vector<float>& k() const { return k_; }  // f32 rows, as stored
  const std::vector<float>& v() const { return v_; }

 private:
  static KvStorage SourceOf(KvStorage storage) { return IsFloatKvStorage(storage) ? storage : KvStorage::kF32; }
  static std::vector<std::byte> Convert(KvStorage storage, const std::vector<float>& values) {
    const DType dtype = static_cast<DType>(SourceOf(storage));
    std::vector<std::byte> rows(values.size() * DTypeBytes(dtype));
    ConvertFromF32(dtype, values.data(), values.size(), rows.data());
    return rows;
  }

  KvTileLayout layout_;
  uint64_t num_tokens_;
  AlignedBuffer<std::byte> tiles_;
  std::vector<float> k_, v_;
};

struct KernelOutput {
  std::vector<float> out;     // [n_q][group_size][head_dim]
  std::vector<float> lse_ln;  // [n_q][group_size]
};

// The call of a case over its contiguous run; fields may be changed before Run.
struct KernelCall {
  KernelCall(const KernelCase& c, const KvTileLayout& layout, const void* tiles, std::mt19937_64& random)
      : q(RandomFloats(size_t{c.n_q} * c.group_size * c.head_dim, random, c.q_sigma)) {
    if (c.bf16_q) {
      for (float& value : q) value = ToFloat(FromFloat<bf16_t>(value));
    }
    args.n_q = c.n_q;
    args.group_size = c.group_size;
    args.layout = &layout;
    args.tiles = tiles;
    args.token_begin = c.token_begin;
    args.token_end = c.token_end;
    args.softmax_scale = 1.0f / std::sqrt(static_cast<float>(c.head_dim));
    args.soft_cap = c.soft_cap;
    args.prefetch_bytes = random() % 2 == 0 ? 0 : 7168;  // changes no result
  }

  KernelOutput Run(const CpuKernel& kernel) {
    KernelOutput output{std::vector<float>(q.size(), 77.0f),
                        std::vector<float>(size_t{args.n_q} * args.group_size, 77.0f)};
    args.q = q.data();
    args.out = output.out.data();
    args.lse_ln = output.lse_ln.data();
    kernel.fn(args);
    return output;
  }

  std::vector<float> q;
  DecodeAttentionArgs args;
};

// A rounded weight moves `out` in proportion to the values that it weighs, which may cancel: errors are held to this
// size. Weights that are off by a share e of themselves move it by at most 2e of it, as their sum is rounded, too.
struct ExpectedPartial : ReferencePartial {
  std::vector<double> out_size;  // [head]: the weighted mean of |v| of its largest dimension
};

// What query token `query` must get from the tokens that are `seen`: [token of rows k and v].
inline ExpectedPartial ExpectedOfQuery(const KernelCall& call, uint32_t query, const std::vector<float>& k,
                                       const std::vector<float>& v, const std::vector<bool>& seen) {
  const uint32_t head_dim = call.args.layout->head_dim;
  const uint32_t group = call.args.group_size;
  ExpectedPartial result;
  for (uint32_t h = 0; h < group; ++h) {
    const float* q = call.q.data() + (size_t{query} * group + h) * head_dim;
    std::vector<double> scores;
    double max = -INFINITY;
    for (size_t t = 0; t < seen.size(); ++t) {
      double score = 0;
      for (uint32_t d = 0; d < head_dim; ++d) score += double{q[d]} * k[t * head_dim + d];
      score *= call.args.softmax_scale;
      const double cap = call.args.soft_cap;
      if (cap != 0) score = cap * std::tanh(score / cap);
      scores.push_back(seen[t] ? score : -INFINITY);
      max = std::max(max, scores.back());
    }
    double sum = 0;
    std::vector<double> out(head_dim, 0.0);
    std::vector<double> size(head_dim, 0.0);
    for (size_t t = 0; t < seen.size(); ++t) {
      if (!seen[t]) continue;
      const double weight = std::exp(scores[t] - max);
      sum += weight;
      for (uint32_t d = 0; d < head_dim; ++d) {
        out[d] += weight * v[t * head_dim + d];
        size[d] += weight * std::abs(v[t * head_dim + d]);
      }
    }
    for (double& value : out) result.out.push_back(sum == 0 ? 0 : value / sum);
    result.out_size.push_back(sum == 0 ? 0 : *std::max_element(size.begin(), size.end()) / sum);
    result.lse_ln.push_back(sum == 0 ? -INFINITY : max + std::log(sum));
  }
  return result;
}

struct KernelBounds {
  double out;     // relative to out_size
  double lse_ln;  // relative to max(1, |lse_ln|)
  // Relative to max |out| of the head, or to 0.25 if that is more: narrower over many tokens, whose errors average out.
  double out_of_max = INFINITY;
};

inline void ExpectNear(const ExpectedPartial& expected, const float* out, const float* lse_ln, uint32_t head_dim,
                       const KernelBounds& bounds) {
  for (size_t h = 0; h < expected.lse_ln.size(); ++h) {
    if (std::isinf(expected.lse_ln[h])) {
      ASSERT_EQ(lse_ln[h], -INFINITY);
    } else {
      ASSERT_NEAR(lse_ln[h], expected.lse_ln[h], bounds.lse_ln * std::max(1.0, std::abs(expected.lse_ln[h])))
          << "head " << h;
    }
    double largest = 0.25;
    for (uint32_t d = 0; d < head_dim; ++d) {
      largest = std::max(largest, std::abs(expected.out[h * head_dim + d]));
    }
    const double bound = std::min(bounds.out * expected.out_size[h], bounds.out_of_max * largest);
    for (uint32_t d = 0; d < head_dim; ++d) {
      ASSERT_NEAR(out[h * head_dim + d], expected.out[h * head_dim + d], bound) << "head " << h << " dim " << d;
    }
  }
}

}  // namespace tributary::testing

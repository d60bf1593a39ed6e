// What storing KV in fewer bits costs: attention in f64 over what the quantisers of attention/kv/kv_quantise.h kept,
// against f64 over the values as they were. Prints the tables of docs/numerics.md.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <functional>
#include <random>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "attention/kv/hadamard.h"
#include "attention/kv/kv_quantise.h"
#include "base/dtype.h"
#include "fmt/format.h"

namespace tributary {
namespace {

// Turns a row into what is kept of it.
using RowCodec = std::function<void(float* row, uint32_t head_dim)>;

struct Variant {
  std::string name;
  double bits_per_element;
  RowCodec codec;
};

// Keys and values of one head, and a query.
struct Head {
  uint32_t head_dim;
  std::vector<float> k, v, q;
};

// Of the channels of trained keys a few are 10 to 30 times larger than the rest: with a mean that hardly moves (as in
// Llama), or spread around zero.
enum class Keys { kPlain, kShiftedChannels, kWideChannels };

Head RandomHead(Keys keys, uint32_t tokens, uint32_t head_dim, std::mt19937_64& random) {
  std::normal_distribution<double> normal;
  std::uniform_real_distribution<double> outlier(10, 30);
  Head head = {head_dim, std::vector<float>(size_t{tokens} * head_dim), {}, {}};
  head.v.resize(head.k.size());
  std::vector<double> mean(head_dim), deviation(head_dim, 1.0), q(head_dim);
  for (double& m : mean) m = 0.5 * normal(random);
  for (double& x : q) x = normal(random);
  for (int i = 0; keys != Keys::kPlain && i < 4; ++i) {
    const size_t channel = random() % head_dim;
    const double size = outlier(random);
    mean[channel] = keys == Keys::kShiftedChannels ? (random() % 2 == 0 ? size : -size) : 0;
    deviation[channel] = keys == Keys::kShiftedChannels ? 0.3 * size : size;
    q[channel] *= 0.3;
  }
  double variance = 0;
  for (uint32_t d = 0; d < head_dim; ++d) variance += q[d] * q[d] * deviation[d] * deviation[d];
  for (double x : q) head.q.push_back(static_cast<float>(2 * x / std::sqrt(variance)));
  for (uint32_t t = 0; t < tokens; ++t) {
    const double size = std::exp(0.3 * normal(random));
    for (uint32_t d = 0; d < head_dim; ++d) {
      head.k[size_t{t} * head_dim + d] = static_cast<float>(mean[d] + deviation[d] * normal(random));
      head.v[size_t{t} * head_dim + d] = static_cast<float>(size * normal(random));
    }
  }
  return head;
}

std::vector<double> Scores(const Head& head, const std::vector<float>& k) {
  std::vector<double> scores(k.size() / head.head_dim);
  for (size_t i = 0; i < k.size(); ++i) {
    scores[i / head.head_dim] += double{head.q[i % head.head_dim]} * k[i];
  }
  return scores;
}

double Lse(const std::vector<double>& scores) {
  const double max = *std::max_element(scores.begin(), scores.end());
  double sum = 0;
  for (double score : scores) sum += std::exp(score - max);
  return max + std::log(sum);
}

std::vector<double> Output(const std::vector<double>& scores, const std::vector<float>& v, uint32_t head_dim) {
  const double lse = Lse(scores);
  std::vector<double> out(head_dim);
  for (size_t i = 0; i < v.size(); ++i) {
    out[i % head_dim] += std::exp(scores[i / head_dim] - lse) * v[i];
  }
  return out;
}

double RelativeError(const std::vector<double>& out, const std::vector<double>& exact) {
  double error = 0, size = 0;
  for (size_t d = 0; d < out.size(); ++d) {
    error += (out[d] - exact[d]) * (out[d] - exact[d]);
    size += exact[d] * exact[d];
  }
  return std::sqrt(error / size);
}

// Root mean squares over heads.
struct Errors {
  double score = 0, lse = 0, out_k = 0, out_v = 0, out = 0;
};

void AddErrors(const Head& head, const RowCodec& codec, Errors* errors) {
  std::vector<float> k = head.k, v = head.v;
  for (size_t i = 0; i < k.size(); i += head.head_dim) {
    codec(k.data() + i, head.head_dim);
    codec(v.data() + i, head.head_dim);
  }
  const std::vector<double> exact = Scores(head, head.k), scores = Scores(head, k);
  double mean = 0, square = 0;
  for (size_t t = 0; t < exact.size(); ++t) mean += (scores[t] - exact[t]) / exact.size();
  for (size_t t = 0; t < exact.size(); ++t) {
    const double error = scores[t] - exact[t] - mean;
    square += error * error / exact.size();
  }
  const uint32_t dim = head.head_dim;
  const std::vector<double> out = Output(exact, head.v, dim);
  const auto add = [](double value, double* sum) { *sum += value * value; };
  errors->score += square;
  add(Lse(scores) - Lse(exact), &errors->lse);
  add(RelativeError(Output(scores, head.v, dim), out), &errors->out_k);
  add(RelativeError(Output(exact, v, dim), out), &errors->out_v);
  add(RelativeError(Output(scores, v, dim), out), &errors->out);
}

template <typename T>
void RoundRow(float* row, uint32_t head_dim) {
  for (uint32_t d = 0; d < head_dim; ++d) row[d] = ToFloat(FromFloat<T>(row[d]));
}

RowCodec StoredAs(KvStorage storage) {
  return [storage](float* row, uint32_t head_dim) {
    std::vector<uint8_t> codes(head_dim);
    bf16_t scale;
    QuantiseKvRow(storage, row, head_dim, codes.data(), &scale);
    DequantiseKvRow(storage, codes.data(), scale, head_dim, row);
  };
}

// The quantisers take a rotated row; rotating before undoes it.
RowCodec WithoutRotation(KvStorage storage) {
  return [codec = StoredAs(storage)](float* row, uint32_t head_dim) {
    HadamardRotate(row, head_dim);
    codec(row, head_dim);
    HadamardRotate(row, head_dim);
  };
}

// 4 bits with a scale and a zero (the smallest value) per group of channels.
RowCodec Int4WithZero(uint32_t group, bool rotated) {
  return [group, rotated](float* row, uint32_t head_dim) {
    if (rotated) HadamardRotate(row, head_dim);
    for (uint32_t first = 0; first < head_dim; first += group) {
      const uint32_t end = std::min(first + group, head_dim);
      const auto [low, high] = std::minmax_element(row + first, row + end);
      const float zero = *low, scale = std::max((*high - *low) / 15, 1e-30f);
      for (uint32_t d = first; d < end; ++d) {
        row[d] = zero + scale * std::nearbyint((row[d] - zero) / scale);
      }
    }
    if (rotated) HadamardRotate(row, head_dim);
  };
}

std::vector<Variant> Variants(uint32_t head_dim) {
  const double scale_bits = 16.0 / head_dim;
  return {{"bf16", 16, &RoundRow<bf16_t>},
          {"f16", 16, &RoundRow<f16_t>},
          {"fp8-e4m3", 8, StoredAs(KvStorage::kFp8E4m3)},
          {"int8", 8 + scale_bits, StoredAs(KvStorage::kInt8)},
          {"int4", 4 + scale_bits, StoredAs(KvStorage::kInt4)},
          {"(int8, not rotated)", 8 + scale_bits, WithoutRotation(KvStorage::kInt8)},
          {"(int4, not rotated)", 4 + scale_bits, WithoutRotation(KvStorage::kInt4)},
          {"(int4, zero per token, rotated)", 4 + 2 * scale_bits, Int4WithZero(head_dim, true)},
          {"(int4, zero per 32 channels)", 4 + 32.0 / 32, Int4WithZero(32, false)},
          {"(int4, zero per 32 channels, rotated)", 4 + 32.0 / 32, Int4WithZero(32, true)}};
}

void PrintTable(Keys keys, const char* title, uint32_t tokens, uint32_t head_dim, uint32_t heads, uint64_t seed) {
  fmt::print("{}\n\n", title);
  fmt::print("| K and V | bits per element | scores | lse_ln | out, K only | out, V only | out |\n");
  fmt::print("|---|---|---|---|---|---|---|\n");
  for (const Variant& variant : Variants(head_dim)) {
    std::mt19937_64 random(seed);
    Errors errors;
    for (uint32_t i = 0; i < heads; ++i) {
      AddErrors(RandomHead(keys, tokens, head_dim, random), variant.codec, &errors);
    }
    const auto rms = [&](double sum) { return std::sqrt(sum / heads); };
    fmt::print("| {} | {:.2f} | {:.2g} | {:.2g} | {:.2g} | {:.2g} | {:.2g} |\n", variant.name, variant.bits_per_element,
               rms(errors.score), rms(errors.lse), rms(errors.out_k), rms(errors.out_v), rms(errors.out));
  }
  fmt::print("\n");
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) {
  uint32_t tokens = 4096, head_dim = 128, heads = 16;
  uint64_t seed = 1;
  CLI::App app("What each KV dtype costs against f64, root mean squares over random heads");
  app.add_option("--tokens", tokens, "tokens of a head")->check(CLI::Range(1, 1 << 24))->capture_default_str();
  app.add_option("--head-dim", head_dim, "at most 256")->check(CLI::Range(1, 256))->capture_default_str();
  app.add_option("--heads", heads, "random heads")->check(CLI::Range(1, 10000))->capture_default_str();
  app.add_option("--seed", seed)->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  using tributary::Keys;
  using tributary::PrintTable;
  PrintTable(Keys::kPlain, "Keys without outliers:", tokens, head_dim, heads, seed);
  PrintTable(Keys::kShiftedChannels, "Four channels with a mean of 10 to 30:", tokens, head_dim, heads, seed);
  PrintTable(Keys::kWideChannels, "Four channels with a deviation of 10 to 30:", tokens, head_dim, heads, seed);
  return 0;
}

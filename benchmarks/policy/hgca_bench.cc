// What HGCA costs on a node, against dense attention over the same shard in the same run: one layer of Llama-3-8B (32
// query and 8 KV heads, d 128), one query token. A step is what the node does for one query entry: planning, attention,
// the fold; what comes after the answer (weights, choosing anew) is timed apart, as is choosing at the spill of a
// block.
//
// Synthetic KV: normal keys and values. The MAW of a block's tokens are log-normal, as attention weights are: in units
// of the uniform weight exp(sigma z - sigma^2 / 2), with a sigma per KV head from 2.2 (diffuse) to 5 (sharp). With beta
// 1 the heads keep 14 % to under 1 % of their tokens, 5 % together. Queries are scaled so that scores have a standard
// deviation of 3.3, for choosing anew by weights.
//
//   hgca_bench [--tokens 32768,131072] [--threads N] [--dtype bf16]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <cstring>
#include <random>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/status.h"
#include "base/thread_pool.h"
#include "benchmarks/support/median.h"
#include "cluster/worker_identity.h"
#include "cpu_attention_service/node/attention_step.h"
#include "fmt/format.h"
#include "kv_store/shard_needs.h"
#include "policy/hgca/spill_section.h"

namespace tributary {
namespace {

constexpr AttentionShape kShape{.num_q_heads = 32, .num_kv_heads = 8, .head_dim = 128};
constexpr uint32_t kBlockTokens = 256;
constexpr uint32_t kResidentTokens = 1024;
constexpr double kSigmas[] = {2.2, 2.6, 3.0, 3.3, 3.8, 4.2, 4.6, 5.0};
constexpr double kScoreSigma = 3.3;

struct Flags {
  std::vector<uint32_t> tokens = {32768, 131072, 524288};
  int threads = static_cast<int>(AllowedCpus().size());
  std::string dtype = "bf16";
  int steps = 15;
};

// Some blocks of rows that all of the context is made of, in the exchange layout, and their MAW.
struct Blocks {
  static constexpr uint32_t kNumBlocks = 16;
  explicit Blocks(std::mt19937_64& random) {
    std::normal_distribution<float> normal;
    const size_t elements = size_t{kBlockTokens} * kShape.num_kv_heads * kShape.head_dim;
    std::vector<float> values(elements);
    for (uint32_t i = 0; i < kNumBlocks; ++i) {
      for (auto* rows : {&k, &v}) {
        for (float& value : values) value = normal(random);
        rows->emplace_back(elements * DTypeBytes(DType::kBf16));
        ConvertFromF32(DType::kBf16, values.data(), elements, rows->back().data());
      }
      std::vector<float> maw(size_t{kBlockTokens} * kShape.num_kv_heads);
      for (size_t t = 0; t < maw.size(); ++t) {
        const double sigma = kSigmas[t % kShape.num_kv_heads];
        const double relative = std::exp(sigma * double{normal(random)} - sigma * sigma / 2);
        maw[t] = static_cast<float>(relative / kResidentTokens);
      }
      sections.emplace_back(HgcaSpillSectionBytes(kBlockTokens, kShape.num_kv_heads));
      const std::span<std::byte> rest = BeginHgcaSpillSection(kResidentTokens, sections.back());
      std::memcpy(rest.data(), maw.data(), rest.size());
    }
  }
  std::vector<std::vector<std::byte>> k, v;
  std::vector<std::vector<std::byte>> sections;  // of their spills, with a MAW [token][KV head]
};

struct StepTimes {
  double answer_us = 0;  // planning and attention
  double after_us = 0;   // weights and what follows from them
};

class HgcaBench {
 public:
  HgcaBench(const Flags& flags, uint32_t num_tokens, const Blocks& blocks, std::mt19937_64& random)
      : flags_(flags), num_tokens_(num_tokens), blocks_(blocks) {
    ShardExecutorOptions options;
    options.num_threads = flags.threads;
    executor_ = std::make_unique<ShardExecutor>(options);
    step_ = std::make_unique<AttentionStep>(executor_.get(), &clock_, &metrics_);
    std::normal_distribution<float> normal(0.0f, static_cast<float>(kScoreSigma));
    q_.resize(size_t{kShape.num_q_heads} * kShape.head_dim);
    for (float& value : q_) value = normal(random);
    out_.resize(q_.size());
    lse_ln_.resize(kShape.num_q_heads);
  }

  absl::Status Open(const PolicyRequest& request) {
    shard_ = nullptr;
    registry_.reset();  // its memory, before more is taken
    ShardSpec spec;
    spec.shard_id = ShardId(1);
    spec.epoch = Epoch(1);
    spec.model = kShape;
    spec.num_layers = spec.layer_end = 1;
    spec.kv_head_end = kShape.num_kv_heads;
    spec.capacity_tokens = num_tokens_ + kBlockTokens;
    TRIBUTARY_ASSIGN_OR_RETURN(spec.k_dtype, ParseKvDType(flags_.dtype));
    spec.v_dtype = spec.k_dtype;
    TRIBUTARY_ASSIGN_OR_RETURN(spec.policy, ResolvePolicy(request, {}));
    constexpr size_t kExtentBytes = 512 << 10;
    TRIBUTARY_ASSIGN_OR_RETURN(const uint64_t bytes, ShardReservedBytes(spec, kExtentBytes));
    ArenaOptions arena;
    arena.bytes = bytes;
    TRIBUTARY_ASSIGN_OR_RETURN(
        std::unique_ptr<ShardStore> store,
        ShardStore::Create({.arena = arena, .extent_bytes = kExtentBytes, .pack = cpu_kernels::Best().pack}));
    registry_ = std::make_unique<ShardRegistry>(std::move(store));
    TRIBUTARY_RETURN_IF_ERROR(registry_->Open(spec, WorkerIdentity{"bench", 1}).status());
    FrameError error;
    shard_ = registry_->Find(spec.shard_id, spec.epoch, &error);
    return absl::OkStatus();
  }

  // Stores the next block, and judges it as the next query would: the time of that, without that of storing.
  double Spill(bool with_maw) {
    const uint64_t stored = shard_->kv->stored_tokens(0);
    const size_t i = stored / kBlockTokens % Blocks::kNumBlocks;
    const KvExchangeRows rows{blocks_.k[i], blocks_.v[i], DType::kBf16, DType::kBf16};
    TRIBUTARY_CHECK(shard_->kv->Store(0, stored, kBlockTokens, rows).ok());
    const std::span<const std::byte> section = std::span(blocks_.sections[i]);
    const int64_t start_ns = clock_.NowNs();
    shard_->policy->OnStored(0, {stored, stored + kBlockTokens}, with_maw ? section : std::span<const std::byte>());
    if (with_maw) {
      ReadPlan plan;
      shard_->policy->PlanRead({.local = {0, stored + kBlockTokens}}, &plan);
    }
    return static_cast<double>(clock_.NowNs() - start_ns) * 1e-3;
  }

  // The median over the context's last blocks, after filling it.
  double Fill(bool with_maw) {
    std::vector<double> us;
    while (shard_->kv->stored_tokens(0) < num_tokens_) us.push_back(Spill(with_maw));
    us.erase(us.begin(), us.end() - static_cast<ptrdiff_t>(std::min<size_t>(us.size(), 101)));
    return MedianOf(us);
  }

  StepTimes Step(uint32_t flags = 0) {
    ReadRequest request;
    request.local = {0, shard_->kv->stored_tokens(0)};
    request.flags = flags;
    request.softmax_scale = 1.0f / std::sqrt(float{kShape.head_dim});
    request.q = std::as_bytes(std::span(q_));
    const int64_t start_ns = clock_.NowNs();
    step_->Begin();
    step_->Plan(shard_, request);
    PartialSpans data;
    data.out = out_;
    data.lse_ln = lse_ln_;
    step_->SetData(data);
    step_->Run();
    const int64_t answered_ns = clock_.NowNs();
    step_->Finish();
    attended_share_ = static_cast<double>(step_->attended_head_tokens(0)) /
                      (static_cast<double>(request.local.size()) * kShape.num_kv_heads);
    return {static_cast<double>(answered_ns - start_ns) * 1e-3,
            static_cast<double>(clock_.NowNs() - answered_ns) * 1e-3};
  }

  // Everything, as for a dense shard.
  double DenseStepUs() {
    ShardQuery query;
    query.shard = shard_->kv.get();
    query.local = {0, shard_->kv->stored_tokens(0)};
    query.q = std::as_bytes(std::span(q_));
    query.partial = {out_, lse_ln_};
    const int64_t start_ns = clock_.NowNs();
    executor_->Execute(std::span(&query, 1), 1.0f / std::sqrt(float{kShape.head_dim}));
    return static_cast<double>(clock_.NowNs() - start_ns) * 1e-3;
  }

  double attended_share() const { return attended_share_; }
  uint64_t cached_rows() const {
    uint64_t rows = 0;
    for (uint32_t head = 0; head < kShape.num_kv_heads; ++head) {
      rows += shard_->policy->row_cache()->num_rows(0, head);
    }
    return rows;
  }

 private:
  const Flags flags_;
  const uint32_t num_tokens_;
  const Blocks& blocks_;
  RealClock clock_;
  AttentionMetrics metrics_;
  std::unique_ptr<ShardExecutor> executor_;
  std::unique_ptr<AttentionStep> step_;
  std::unique_ptr<ShardRegistry> registry_;
  NodeShard* shard_ = nullptr;  // the registry's
  std::vector<float> q_, out_, lse_ln_;
  double attended_share_ = 0;
};

// Dense and sparse steps in turn.
void PrintSteps(const Flags& flags, HgcaBench& bench, const char* name, double spill_us) {
  std::vector<double> dense, answer, after;
  for (int i = 0; i < flags.steps; ++i) {
    dense.push_back(bench.DenseStepUs());
    const StepTimes times = bench.Step();
    answer.push_back(times.answer_us);
    after.push_back(times.after_us);
  }
  const double dense_us = MedianOf(dense), answer_us = MedianOf(answer), after_us = MedianOf(after);
  const double spill_share_us = spill_us / kBlockTokens;
  fmt::print(
      "  {:28} dense {:9.1f} us, step {:8.1f} us, after the answer {:7.1f} us, spill of a block "
      "{:7.1f} us; read {:5.2f} %; step and its share of a spill / dense {:.3f}\n",
      name, dense_us, answer_us, after_us, spill_us, 100 * bench.attended_share(),
      (answer_us + spill_share_us) / dense_us);
}

absl::Status RunContext(const Flags& flags, uint32_t num_tokens, const Blocks& blocks, std::mt19937_64& random) {
  fmt::print("{} tokens, {}, {} threads\n", num_tokens, flags.dtype, flags.threads);
  HgcaBench bench(flags, num_tokens, blocks, random);
  TRIBUTARY_RETURN_IF_ERROR(bench.Open({.name = "hgca", .parameters = {{"beta", 1}, {"keep_min", 2}}}));
  double spill_us = bench.Fill(/*with_maw=*/true);
  PrintSteps(flags, bench, "caches that grow", spill_us);
  const uint64_t rows_per_head = bench.cached_rows() / kShape.num_kv_heads;
  // A limit at the mean of what the heads keep: the diffuse ones are distilled.
  TRIBUTARY_RETURN_IF_ERROR(
      bench.Open({.name = "hgca", .parameters = {{"beta", 1}, {"keep_min", 2}, {"max_cache_tokens", rows_per_head}}}));
  spill_us = bench.Fill(/*with_maw=*/true);
  PrintSteps(flags, bench, "caches with a limit", spill_us);
  // No MAW: the first query reads everything and chooses.
  TRIBUTARY_RETURN_IF_ERROR(bench.Open({.name = "hgca", .parameters = {{"beta", 1}, {"keep_min", 2}}}));
  bench.Fill(/*with_maw=*/false);
  bench.DenseStepUs();
  const StepTimes first = bench.Step();
  std::vector<double> answer, after;
  for (int i = 0; i < std::max(3, flags.steps / 3); ++i) {
    const StepTimes times = bench.Step(kQueryAppend | kQueryAppendEnd);
    answer.push_back(times.answer_us);
    after.push_back(times.after_us);
  }
  bench.Step();
  fmt::print(
      "  choosing anew by weights     first: answer {:.1f} us, after it {:.1f} us; again: {:.1f} "
      "and "
      "{:.1f} us; then {:.2f} % are read\n",
      first.answer_us, first.after_us, MedianOf(answer), MedianOf(after), 100 * bench.attended_share());
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("HGCA on a node against dense attention, one layer of Llama-3-8B");
  app.add_option("--tokens", flags.tokens, "context lengths, multiples of 256")->delimiter(',');
  app.add_option("--threads", flags.threads, "threads, the caller included");
  app.add_option("--dtype", flags.dtype, "storage of the shard: bf16, int8, ...");
  app.add_option("--steps", flags.steps, "pairs of steps per row");
  CLI11_PARSE(app, argc, argv);
  std::mt19937_64 random(1);
  const Blocks blocks(random);
  for (const uint32_t num_tokens : flags.tokens) {
    const absl::Status status = RunContext(flags, num_tokens, blocks, random);
    if (status.ok()) continue;
    fmt::print(stderr, "hgca_bench: {}\n", std::string(status.message()));
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }

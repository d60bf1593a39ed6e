#include "benchmarks/step/kernel_alone.h"

#include <algorithm>
#include <chrono>
#include <cstring>
#include <memory>
#include <random>
#include <utility>

#include "attention/kv/kv_pack.h"
#include "base/clock.h"
#include "base/status.h"

namespace tributary {
namespace {

std::vector<float> RandomRows(size_t count, std::mt19937_64& random) {
  std::normal_distribution<float> normal;
  std::vector<float> values(count);
  for (float& value : values) value = normal(random);
  return values;
}

}  // namespace

absl::StatusOr<KernelAlone> KernelAlone::Create(const KernelAloneOptions& options) {
  const uint64_t stream_bytes = KvTilesFor(options.tokens_per_stream) * options.layout.record_bytes;
  const uint64_t threads = static_cast<uint64_t>(options.num_threads);
  const uint64_t per_thread = std::max<uint64_t>(1, options.min_bytes / stream_bytes / threads);
  TRIBUTARY_ASSIGN_OR_RETURN(Arena arena, Arena::Create({.bytes = per_thread * threads * stream_bytes}));
  KernelAlone alone(options, std::move(arena), per_thread * threads);
  alone.Fill();
  return alone;
}

KernelAlone::KernelAlone(const KernelAloneOptions& options, Arena arena, size_t num_streams)
    : options_(options),
      arena_(std::move(arena)),
      num_streams_(num_streams),
      pool_(std::make_unique<ThreadPool>(options.num_threads)),
      q_(size_t{options.group_size} * options.layout.head_dim) {
  const size_t out_floats = size_t{options.group_size} * (options.layout.head_dim + 1);
  out_ = AlignedBuffer<float>((out_floats + 15) / 16 * 16 * static_cast<size_t>(options.num_threads));
}

void KernelAlone::Fill() {
  constexpr uint32_t kTiles = 4;
  std::mt19937_64 random(11);
  const uint32_t head_dim = options_.layout.head_dim;
  const std::vector<float> q = RandomRows(q_.size(), random);
  std::copy(q.begin(), q.end(), q_.data());
  const size_t elements = size_t{kTiles} * kKvTileTokens * head_dim;
  const auto source = [](KvStorage storage) { return IsFloatKvStorage(storage) ? storage : KvStorage::kF32; };
  const auto rows = [&](KvStorage storage) {
    const DType dtype = static_cast<DType>(source(storage));
    const std::vector<float> values = RandomRows(elements, random);
    std::vector<std::byte> bytes(elements * DTypeBytes(dtype));
    ConvertFromF32(dtype, values.data(), elements, bytes.data());
    return bytes;
  };
  const std::vector<std::byte> k = rows(options_.layout.k_storage);
  const std::vector<std::byte> v = rows(options_.layout.v_storage);
  AlignedBuffer<std::byte> tiles(size_t{kTiles} * options_.layout.record_bytes);
  KvPackArgs args;
  args.layout = options_.layout;
  args.k_source = source(options_.layout.k_storage);
  args.v_source = source(options_.layout.v_storage);
  args.k = k.data();
  args.v = v.data();
  args.k_stride_bytes = k.size() / kTiles / kKvTileTokens;
  args.v_stride_bytes = v.size() / kTiles / kKvTileTokens;
  args.num_tokens = kTiles * kKvTileTokens;
  args.tiles = tiles.data();
  PackKvPlain(args);
  const std::span<std::byte> memory = arena_.memory();
  for (size_t at = 0; at < memory.size(); at += tiles.size()) {
    std::memcpy(memory.data() + at, tiles.data(), std::min(tiles.size(), memory.size() - at));
  }
}

void KernelAlone::RunShare(int thread_idx) {
  const size_t thread = static_cast<size_t>(thread_idx);
  const size_t per_thread = num_streams_ / static_cast<size_t>(options_.num_threads);
  const size_t stream_bytes = arena_.memory().size() / num_streams_;
  DecodeAttentionArgs args;
  args.q = q_.data();
  args.group_size = options_.group_size;
  args.layout = &options_.layout;
  args.token_end = options_.tokens_per_stream;
  args.prefetch_bytes = cpu_kernels::RunPrefetchBytes(args.layout->k_storage, args.n_q * args.group_size);
  args.softmax_scale = 0.1f;
  args.out = out_.data() + thread * (out_.size() / static_cast<size_t>(options_.num_threads));
  args.lse_ln = args.out + q_.size();
  for (size_t i = thread * per_thread; i < (thread + 1) * per_thread; ++i) {
    args.tiles = arena_.memory().data() + i * stream_bytes;
    kernel_->fn(args);
  }
}

double KernelAlone::RunUsPerMb() {
  const RealClock clock;
  const int64_t start_ns = clock.NowNs();
  pool_->Run([this](int thread_idx) { RunShare(thread_idx); });
  const double us = static_cast<double>(clock.NowNs() - start_ns) * 1e-3;
  return us / (static_cast<double>(arena_.memory().size()) * 1e-6);
}

}  // namespace tributary

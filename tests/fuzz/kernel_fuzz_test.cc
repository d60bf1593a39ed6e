// Random calls of every CPU kernel that this machine supports, against the f64 reference: storages, shapes, lengths,
// beginnings, block lists, single tokens, visible ends. Tokens that no query sees hold NaN; memory has exactly the
// calls' size, so that AddressSanitizer sees what lies beyond.
//
// 300 cases as an ordinary test; TRIBUTARY_FUZZ_CASES=<number> for others, TRIBUTARY_FUZZ_SECONDS=<number> for as many
// as fit (`./dev fuzz` runs it under ASan and UBSan). A failure prints the seed of its case: TRIBUTARY_TEST_SEED=<seed>
// runs that case first.
#include <gtest/gtest.h>

#include <chrono>
#include <cstdio>
#include <cstdlib>

#include "tests/testutil/test_seed.h"
#include "tests/unit/cpu_attention_service/kernels/kernel_case.h"

namespace tributary {
namespace {

using testing::ExpectedOfQuery;
using testing::ExpectNear;
using testing::KernelBounds;
using testing::KernelCall;
using testing::KernelCase;
using testing::KernelOutput;
using testing::KernelTiles;
using testing::RandomFloats;

constexpr uint64_t kMaxWork = 3'000'000;  // multiply-adds of the reference, about: keeps a case to milliseconds

class KernelFuzz {
 public:
  explicit KernelFuzz(uint64_t seed) : random_(seed) {}

  void RunCase() {
    const CpuKernel& kernel = RandomKernel();
    const KernelCase c = RandomCase(kernel);
    SCOPED_TRACE(::testing::Message() << kernel.name << ", " << c.Text());
    KernelTiles tiles(c, random_);
    if (c.k_storage != KvStorage::kInt4 && Chance(3))
      tiles.Store(WithOutliers(tiles.k(), c), WithOutliers(tiles.v(), c));
    KernelCall call(c, tiles.layout(), tiles.data(), random_);
    if (Chance(4)) call.args.prefetch_bytes = Int(0u, 20000u);
    const std::vector<uint64_t> visible_end = RandomVisibleEnd(c);
    if (!visible_end.empty()) call.args.visible_end = visible_end.data();
    std::vector<KvPiece> pieces;
    std::vector<bool> chosen(c.token_end);
    if (Chance(2)) {
      pieces = RandomPieces(tiles, chosen);
      call.args.pieces = pieces.data();
      call.args.num_pieces = static_cast<uint32_t>(pieces.size());
    } else {
      for (size_t t = c.token_begin; t < chosen.size(); ++t) chosen[t] = true;
    }
    std::vector<std::vector<bool>> seen(c.n_q, chosen);
    std::vector<bool> seen_by_any(chosen.size());
    for (uint32_t query = 0; query < c.n_q; ++query) {
      for (size_t t = 0; t < chosen.size(); ++t) {
        if (!visible_end.empty() && t >= visible_end[query]) seen[query][t] = false;
        if (seen[query][t]) seen_by_any[t] = true;
      }
    }
    PoisonUnseen(tiles, seen_by_any);
    Compare(kernel, c, tiles, call, seen);
    ComparePack(kernel, c);
  }

 private:
  bool Chance(uint32_t one_in) { return random_() % one_in == 0; }
  template <typename T>
  T Int(T low, T high) {
    return RandomInt<T>(random_, low, high);
  }

  const CpuKernel& RandomKernel() {
    std::vector<const CpuKernel*> kernels;
    for (const CpuKernel& kernel : cpu_kernels::All()) {
      if (cpu_kernels::IsSupported(kernel)) kernels.push_back(&kernel);
    }
    return *kernels[random_() % kernels.size()];
  }

  KvStorage RandomStorage(const CpuKernel& kernel) {
    while (true) {
      const auto storage = static_cast<KvStorage>(Int(1u, kNumKvStorages));
      if ((kernel.storages >> static_cast<uint32_t>(storage) & 1) != 0) return storage;
    }
  }

  KernelCase RandomCase(const CpuKernel& kernel) {
    constexpr uint32_t kHeadDims[] = {64, 80, 96, 112, 128, 128, 192, 256};
    KernelCase c;
    c.k_storage = RandomStorage(kernel);
    c.v_storage = Chance(2) ? c.k_storage : RandomStorage(kernel);
    c.head_dim = Chance(8) ? Int(1u, limits::kMaxHeadDim) : kHeadDims[random_() % std::size(kHeadDims)];
    c.group_size = Chance(10) ? Int(1u, limits::kMaxGroupSize) : Int(1u, 16u);
    c.n_q = Chance(2) ? 1 : Int(1u, kMaxKernelQueryTokens);
    const uint64_t token_work = uint64_t{c.n_q} * c.group_size * c.head_dim;
    const uint64_t most_tokens = std::clamp<uint64_t>(kMaxWork / token_work, 1, 1500);
    c.token_end = Int<uint64_t>(0, Chance(3) ? std::min<uint64_t>(most_tokens, 130) : most_tokens);
    c.token_begin = Chance(2) ? 0 : Int<uint64_t>(0, c.token_end);
    if (Chance(4)) c.soft_cap = 0.5f * static_cast<float>(Int(1, 100));
    // int4 takes q in 8 bits, an error that grows with the scores: kept small, so that the bounds can be narrow.
    c.q_sigma = c.k_storage != KvStorage::kInt4 && Chance(5) ? 8.0f : 1.0f;
    c.bf16_q = Chance(3);
    return c;
  }

  // Some channels of a head are much larger than the others, as in the keys of real models.
  std::vector<float> WithOutliers(std::vector<float> rows, const KernelCase& c) {
    std::vector<float> factor(c.head_dim);
    for (float& value : factor) value = Chance(16) ? 6.0f : 1.0f;
    for (size_t i = 0; i < rows.size(); ++i) rows[i] *= factor[i % c.head_dim];
    return rows;
  }

  // Empty: all is visible. Causal, or anything.
  std::vector<uint64_t> RandomVisibleEnd(const KernelCase& c) {
    std::vector<uint64_t> visible_end;
    if (Chance(2)) return visible_end;
    const uint64_t first = Int<uint64_t>(0, c.token_end + 1);
    for (uint32_t query = 0; query < c.n_q; ++query) {
      visible_end.push_back(Chance(4) ? Int<uint64_t>(0, c.token_end + 70) : first + query);
    }
    return visible_end;
  }

  // Blocks of a size or sets of single tokens, in random or ascending order; tokens below token_end only.
  std::vector<KvPiece> RandomPieces(KernelTiles& tiles, std::vector<bool>& chosen) {
    std::vector<KvPiece> pieces;
    const uint32_t block_tokens = 16u << Int(0, 3);
    const bool single_tokens = Chance(4);
    const uint32_t one_in = Int(1u, 6u);
    bool take = false;
    for (size_t begin = 0; begin < chosen.size(); begin += kKvTileTokens) {
      uint64_t mask = 0;
      for (uint32_t bit = 0; bit < kKvTileTokens && begin + bit < chosen.size(); ++bit) {
        if (single_tokens || (begin + bit) % block_tokens == 0) take = Chance(one_in);
        if (!take) continue;
        mask |= uint64_t{1} << bit;
        chosen[begin + bit] = true;
      }
      if (mask == 0 && !Chance(4)) continue;
      const uint64_t tile = begin / kKvTileTokens;
      pieces.push_back({tiles.data() + tile * tiles.layout().record_bytes, mask, begin});
    }
    if (Chance(2)) std::shuffle(pieces.begin(), pieces.end(), random_);
    pieces.reserve(1);  // an empty list is a list, too
    return pieces;
  }

  static void PoisonElement(KvStorage storage, uint32_t index, std::byte* codes) {
    const uint32_t bytes = KvCodeBits(storage) / 8;
    if (IsFloatKvStorage(storage)) std::memset(codes + size_t{index} * bytes, 0xff, bytes);
    if (storage == KvStorage::kFp8E4m3) codes[index] = std::byte{0x7f};
  }

  static void PoisonUnseen(KernelTiles& tiles, const std::vector<bool>& seen) {
    const KvTileLayout& layout = tiles.layout();
    const uint32_t k_param_bytes = KvParamBytesPerToken(layout.k_storage);
    const uint32_t v_param_bytes = KvParamBytesPerToken(layout.v_storage);
    for (size_t t = 0; t < seen.size(); ++t) {
      if (seen[t]) continue;
      std::byte* tile = tiles.data() + t / kKvTileTokens * layout.record_bytes;
      const uint32_t token = t % kKvTileTokens;
      for (uint32_t dim = 0; dim < layout.padded_dim; ++dim) {
        PoisonElement(layout.k_storage, KvKElementIndex(layout, token, dim), tile);
        PoisonElement(layout.v_storage, KvVElementIndex(layout, token, dim), tile + layout.v_begin);
      }
      std::memset(tile + layout.k_params_begin + token * k_param_bytes, 0xff, k_param_bytes);
      std::memset(tile + layout.v_params_begin + token * v_param_bytes, 0xff, v_param_bytes);
    }
  }

  // Wider than the unit tests' (docs/numerics.md), since scores here may be large: what is looked for is the wrong
  // token, the wrong row, the wrong lane.
  static KernelBounds BoundsOf(const CpuKernel& kernel, const KernelCase& c, size_t num_seen) {
    const std::string_view name = kernel.name;
    const double of_many = num_seen >= 512 ? 1 : INFINITY;  // out_of_max holds where errors average out
    if (name == "scalar" || name == "avx2" || name == "avx512") return {5e-5, 1e-5, 2e-4 * of_many};
    const bool is_int = c.v_storage == KvStorage::kInt8 || c.v_storage == KvStorage::kInt4;
    if (c.k_storage == KvStorage::kInt4) return {5e-2, 5e-2, 5e-2 * of_many};
    // Large q beside the outliers of K make scores of hundreds; a score near 0 is then the rest of a cancellation.
    const bool large = c.q_sigma > 1;
    return {(is_int ? 1e-2 : 4e-3) * (large ? 4 : 1), 3e-4 * (large ? 8 : 1),
            (is_int ? 2e-2 : 1e-2) * (large ? 4 : 1) * of_many};
  }

  void Compare(const CpuKernel& kernel, const KernelCase& c, const KernelTiles& tiles, KernelCall& call,
               const std::vector<std::vector<bool>>& seen) {
    float dummy = 0;
    DecodeAttentionArgs args = call.args;
    args.q = args.out = args.lse_ln = &dummy;
    const absl::Status valid = cpu_kernels::ValidateDecodeAttention(kernel, args, tiles.num_bytes());
    ASSERT_TRUE(valid.ok()) << valid;
    const KernelOutput output = call.Run(kernel);
    for (uint32_t query = 0; query < c.n_q; ++query) {
      const size_t row = size_t{query} * c.group_size;
      ExpectNear(ExpectedOfQuery(call, query, tiles.k(), tiles.v(), seen[query]), output.out.data() + row * c.head_dim,
                 output.lse_ln.data() + row, c.head_dim,
                 BoundsOf(kernel, c, static_cast<size_t>(std::count(seen[query].begin(), seen[query].end(), true))));
    }
    const KernelOutput again = call.Run(kernel);
    ASSERT_EQ(std::memcmp(output.out.data(), again.out.data(), output.out.size() * sizeof(float)), 0);
    ASSERT_EQ(std::memcmp(output.lse_ln.data(), again.lse_ln.data(), output.lse_ln.size() * sizeof(float)), 0);
  }

  // The kernel's packing and the plain one store the same bytes, and leave the same bytes alone.
  void ComparePack(const CpuKernel& kernel, const KernelCase& c) {
    constexpr KvStorage kSources[] = {KvStorage::kF32, KvStorage::kBf16, KvStorage::kF16};
    KvPackArgs args;
    args.layout = MakeKvTileLayout(c.k_storage, c.v_storage, c.head_dim);
    args.k_source = IsFloatKvStorage(c.k_storage) ? c.k_storage : kSources[random_() % 3];
    args.v_source = IsFloatKvStorage(c.v_storage) ? c.v_storage : kSources[random_() % 3];
    args.num_tokens = Int(0u, 200u);
    args.token_begin = Int<uint64_t>(0, 150);
    const size_t heads = Int(1, 3);  // rows of other heads between them
    const auto rows = [&](KvStorage source, size_t* stride_bytes) {
      const DType dtype = static_cast<DType>(source);
      *stride_bytes = heads * c.head_dim * DTypeBytes(dtype);
      const std::vector<float> values = RandomFloats(args.num_tokens * heads * c.head_dim, random_);
      std::vector<std::byte> bytes(values.size() * DTypeBytes(dtype));
      ConvertFromF32(dtype, values.data(), values.size(), bytes.data());
      return bytes;
    };
    const std::vector<std::byte> k = rows(args.k_source, &args.k_stride_bytes);
    const std::vector<std::byte> v = rows(args.v_source, &args.v_stride_bytes);
    args.k = k.data();
    args.v = v.data();
    const size_t bytes = KvTilesFor(args.token_begin + args.num_tokens) * args.layout.record_bytes;
    if (bytes == 0) return;  // nothing to compare, and buffers without memory
    AlignedBuffer<std::byte> plain(bytes);
    AlignedBuffer<std::byte> fast(bytes);
    args.tiles = plain.data();
    PackKvPlain(args);
    args.tiles = fast.data();
    kernel.pack(args);
    ASSERT_EQ(std::memcmp(plain.data(), fast.data(), bytes), 0)
        << "pack: tokens [" << args.token_begin << ", + " << args.num_tokens << ") heads " << heads << " sources "
        << static_cast<int>(args.k_source) << " " << static_cast<int>(args.v_source);
  }

  std::mt19937_64 random_;
};

// 0: not set.
double NumberFrom(const char* variable) {
  const char* text = std::getenv(variable);
  return text == nullptr ? 0 : std::strtod(text, nullptr);
}

TEST(KernelFuzzTest, RandomCalls) {
  const double seconds = NumberFrom("TRIBUTARY_FUZZ_SECONDS");
  const double wanted_cases = NumberFrom("TRIBUTARY_FUZZ_CASES");
  const int num_cases = wanted_cases > 0 ? static_cast<int>(wanted_cases) : 300;
  const auto start = std::chrono::steady_clock::now();
  const auto elapsed = [&] { return std::chrono::duration<double>(std::chrono::steady_clock::now() - start).count(); };
  uint64_t seed = TestSeed();
  // A sanitizer's report ends the process before a trace is shown: the seed of the first case is enough to repeat a
  // run.
  std::printf("%s\n", SeedTrace(seed).c_str());
  std::fflush(stdout);
  int cases = 0;
  for (; !HasFailure() && (seconds > 0 ? elapsed() < seconds : cases < num_cases); ++seed, ++cases) {
    SCOPED_TRACE(SeedTrace(seed));
    KernelFuzz(seed).RunCase();
  }
  std::printf("%d cases in %.1f s\n", cases, elapsed());
}

}  // namespace
}  // namespace tributary

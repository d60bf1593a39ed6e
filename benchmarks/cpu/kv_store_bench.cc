// What storing KV costs, on one thread: a layer of Llama-3-8B (8 KV heads, d 128) comes in blocks of 256 tokens of
// bf16, as spills do, into a shard of each storage. GB/s are stored bytes.
//
//   store     new tokens: rows packed and quantised, and the CRC of each tile
//   check     what attention does before it reads tiles for the first time, and the scrub again and again
//   again     the same tokens once more: packed again and compared
//
//   kv_store_bench [--tokens 65536] [--rounds 5] [--dtypes bf16,int8] [--extent-kib 512]
#include <cstdio>
#include <random>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/check.h"
#include "base/clock.h"
#include "base/status.h"
#include "benchmarks/support/median.h"
#include "cpu_attention_service/kernels/kernels.h"
#include "fmt/format.h"
#include "kv_store/shard_store.h"

namespace tributary {
namespace {

constexpr uint32_t kBlockTokens = 256;

struct Flags {
  uint64_t tokens = 65536;
  int rounds = 5;
  std::vector<std::string> dtypes = {"f32", "bf16", "f16", "int8", "int4", "fp8-e4m3"};
  size_t extent_kib = 512;
};

ShardSpec Spec(const Flags& flags, DType dtype) {
  ShardSpec spec;
  spec.shard_id = ShardId(1);
  spec.model = {.num_q_heads = 32, .num_kv_heads = 8, .head_dim = 128};
  spec.num_layers = spec.layer_end = 1;
  spec.kv_head_end = spec.model.num_kv_heads;
  spec.capacity_tokens = flags.tokens;
  spec.k_dtype = spec.v_dtype = dtype;
  return spec;
}

// Rows of some blocks, that are stored in turn: 32 MiB, beyond the second-level cache as what a network card wrote.
class Source {
 public:
  explicit Source(const ShardSpec& spec) : block_bytes_(size_t{kBlockTokens} * spec.num_kv_heads_held() * 128 * 2) {
    std::mt19937 random(1);
    std::normal_distribution<float> normal;
    std::vector<float> values(kBlocks * block_bytes_ / 2);
    for (float& value : values) value = normal(random);
    for (std::vector<std::byte>* rows : {&k_, &v_}) {
      rows->resize(values.size() * 2);
      ConvertFromF32(DType::kBf16, values.data(), values.size(), rows->data());
    }
  }
  KvExchangeRows Block(uint64_t i) const {
    const size_t begin = i % kBlocks * block_bytes_;
    return {std::span(k_).subspan(begin, block_bytes_), std::span(v_).subspan(begin, block_bytes_), DType::kBf16,
            DType::kBf16};
  }

 private:
  static constexpr size_t kBlocks = 32;
  size_t block_bytes_;
  std::vector<std::byte> k_;
  std::vector<std::byte> v_;
};

struct Rates {
  std::vector<double> store, check, again;  // GB/s
};

absl::Status RunDType(const Flags& flags, const std::string& name) {
  TRIBUTARY_ASSIGN_OR_RETURN(const DType dtype, ParseKvDType(name));
  const ShardSpec spec = Spec(flags, dtype);
  const size_t extent_bytes = flags.extent_kib << 10;
  TRIBUTARY_ASSIGN_OR_RETURN(const uint64_t pool_bytes, KvShard::ReservedBytes(spec, extent_bytes));
  TRIBUTARY_ASSIGN_OR_RETURN(std::unique_ptr<ShardStore> store,
                             ShardStore::Create({.arena = {.bytes = pool_bytes, .prefault = true},
                                                 .extent_bytes = extent_bytes,
                                                 .pack = cpu_kernels::Best().pack}));
  const Source source(spec);
  const RealClock clock;
  const auto bytes = static_cast<double>(StoredBytes(spec, flags.tokens));
  Rates rates;
  const auto time = [&](std::vector<double>& rate, const auto& work) {
    const int64_t start_ns = clock.NowNs();
    work();
    rate.push_back(bytes / static_cast<double>(clock.NowNs() - start_ns));
  };
  for (int round = 0; round < flags.rounds; ++round) {
    TRIBUTARY_ASSIGN_OR_RETURN(const std::shared_ptr<KvShard> shard, store->Open(spec));
    const auto store_all = [&] {
      for (uint64_t pos = 0; pos < flags.tokens; pos += kBlockTokens) {
        TRIBUTARY_CHECK(shard->Store(0, pos, kBlockTokens, source.Block(pos / kBlockTokens)).ok());
      }
    };
    time(rates.store, store_all);
    time(rates.check, [&] {
      for (uint32_t head = 0; head < spec.num_kv_heads_held(); ++head) {
        TRIBUTARY_CHECK(shard->AreIntact(0, head, 0, KvTilesFor(flags.tokens)));
      }
    });
    time(rates.again, store_all);
    TRIBUTARY_RETURN_IF_ERROR(store->Close(spec.shard_id, spec.epoch));
  }
  fmt::print("{:9} store {:6.2f}  check {:6.2f}  again {:6.2f} GB/s   CRCs {:.3f} % of {:.0f} MiB\n", name,
             MedianOf(rates.store), MedianOf(rates.check), MedianOf(rates.again),
             100 * static_cast<double>(4 * KvTilesFor(flags.tokens) * spec.num_kv_heads_held()) / bytes,
             bytes / (1 << 20));
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("What storing KV costs, and checking it");
  app.add_option("--tokens", flags.tokens, "Tokens of a shard, a multiple of 256")->capture_default_str();
  app.add_option("--rounds", flags.rounds, "Shards stored one after the other; medians are shown")
      ->check(CLI::Range(1, 1000))
      ->capture_default_str();
  app.add_option("--dtypes", flags.dtypes, "Storages")->delimiter(',');
  app.add_option("--extent-kib", flags.extent_kib, "Extents")->capture_default_str();
  CLI11_PARSE(app, argc, argv);
  for (const std::string& dtype : flags.dtypes) {
    const absl::Status status = RunDType(flags, dtype);
    if (status.ok()) continue;
    fmt::print(stderr, "kv_store_bench: {}\n", std::string(status.message()));
    return 1;
  }
  return 0;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }

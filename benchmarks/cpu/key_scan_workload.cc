#include "benchmarks/cpu/key_scan_workload.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <utility>
#include <vector>

#include "base/status.h"
#include "cpu_attention_service/policy/token_finder.h"
#include "fmt/format.h"
#include "kv_store/block_pool.h"
#include "kv_store/key_codes.h"

namespace tributary {
namespace {

struct alignas(64) ScanState {
  std::vector<float> q;
  std::vector<std::vector<uint32_t>> found;
  size_t next_call = 0;
};

class KeyScanWorkload final : public Workload {
 public:
  KeyScanWorkload(SlicePool& pool, std::unique_ptr<BlockPool> memory, KeyCodes codes, size_t streams_per_thread,
                  const KeyScanCase& c)
      : case_(c),
        memory_(std::move(memory)),
        codes_(std::move(codes)),
        streams_per_thread_(streams_per_thread),
        num_tokens_(c.kv_len / kKeyCodeRecordTokens * kKeyCodeRecordTokens),
        threads_(static_cast<size_t>(pool.num_threads())) {
    std::mt19937_64 random(5);
    std::normal_distribution<float> normal;
    for (ScanState& thread : threads_) {
      thread.q.resize(size_t{c.group_size} * c.head_dim);
      for (float& value : thread.q) value = normal(random);
      thread.found.resize(c.group_size);
    }
    std::vector<float> keys(kPatternRecords * kKeyCodeRecordTokens * size_t{c.head_dim});
    for (float& key : keys) key = normal(random);
    const size_t record_keys = kKeyCodeRecordTokens * size_t{c.head_dim};
    pool.Run([&](int t) {
      for (size_t i = 0; i < streams_per_thread_; ++i) {
        const uint64_t stream = static_cast<size_t>(t) * streams_per_thread_ + i;
        for (uint64_t record = 0; record < num_tokens_ / kKeyCodeRecordTokens; ++record) {
          codes_.Add(stream, keys.data() + (record + i) % kPatternRecords * record_keys);
        }
      }
    });
  }

  uint64_t stream_bytes() const { return num_tokens_ / kKeyCodeRecordTokens * codes_.layout().record_bytes; }
  uint64_t step_tokens() const override { return 0; }
  uint64_t step_bytes() const override { return uint64_t{case_.batch} * case_.kv_heads * stream_bytes(); }
  void SetSlice(uint64_t bytes_per_thread) override {
    calls_per_slice_ = std::max<uint64_t>(1, bytes_per_thread / stream_bytes());
  }
  uint64_t slice_bytes() const override { return threads_.size() * calls_per_slice_ * stream_bytes(); }
  void RunSlice(int thread_idx) override {
    ScanState& thread = threads_[static_cast<size_t>(thread_idx)];
    for (uint64_t i = 0; i < calls_per_slice_; ++i) Scan(thread_idx, thread.next_call++ % streams_per_thread_);
  }
  void CallResident(int thread_idx) override { Scan(thread_idx, 0); }
  uint64_t resident_bytes() const override { return threads_.size() * stream_bytes(); }

 private:
  static constexpr size_t kPatternRecords = 37;

  void Scan(int thread_idx, size_t stream) {
    ScanState& thread = threads_[static_cast<size_t>(thread_idx)];
    FindTokens(*case_.kernel,
               {.codes = &codes_,
                .stream = static_cast<size_t>(thread_idx) * streams_per_thread_ + stream,
                .local = {0, num_tokens_},
                .q = thread.q,
                .num_rows = case_.group_size,
                .softmax_scale = 1.0f / std::sqrt(static_cast<float>(case_.head_dim)),
                .max_tokens = static_cast<uint32_t>(std::ceil(case_.selected_share * static_cast<double>(num_tokens_))),
                .reach_nats = std::numeric_limits<float>::infinity()},
               thread.found);
  }

  const KeyScanCase case_;
  const std::unique_ptr<BlockPool> memory_;
  KeyCodes codes_;
  const size_t streams_per_thread_;
  const uint64_t num_tokens_;
  std::vector<ScanState> threads_;
  uint64_t calls_per_slice_ = 1;
};

}  // namespace

absl::StatusOr<std::unique_ptr<Workload>> MakeKeyScanWorkload(SlicePool& pool, std::span<std::byte> memory,
                                                              const KeyScanCase& c) {
  constexpr size_t kExtentBytes = 2u << 20;
  const auto num_threads = static_cast<size_t>(pool.num_threads());
  auto blocks = std::make_unique<BlockPool>(memory, kExtentBytes);
  SummarisedKeys keys{c.head_dim, 1, c.kv_len};
  TRIBUTARY_ASSIGN_OR_RETURN(const uint64_t one, KeyCodes::ReservedBytes({c.bits}, keys, kExtentBytes));
  const size_t streams_per_thread = std::min<size_t>(blocks->capacity_bytes() / one / num_threads, 64);
  if (streams_per_thread == 0) {
    return absl::ResourceExhaustedError(
        fmt::format("{} bytes of working set do not hold the codes of a stream, {} bytes, per thread; raise "
                    "--working-set-mib",
                    memory.size(), one));
  }
  keys.num_streams = streams_per_thread * num_threads;
  TRIBUTARY_ASSIGN_OR_RETURN(KeyCodes codes, KeyCodes::Open({c.bits}, keys, blocks.get()));
  return std::make_unique<KeyScanWorkload>(pool, std::move(blocks), std::move(codes), streams_per_thread, c);
}

}  // namespace tributary

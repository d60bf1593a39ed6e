// Flags between host and GPU: the order of what they guard, waits that end by themselves, and all of it inside a graph.
#include "gpu_worker/device/cuda/kernels/doorbell.h"

#include <atomic>
#include <chrono>
#include <optional>
#include <type_traits>

#include "gpu_worker/device/cuda/kernels/fetch.h"
#include "gpu_worker/device/cuda/kernels/merge.h"
#include "gpu_worker/device/cuda/kernels/qkv.h"
#include "tests/unit/gpu_worker/device/cuda/kernels/kernel_test_util.h"

namespace tributary::gpu {
namespace {

constexpr uint64_t kLongNs = 5'000'000'000;  // no wait of a passing test ends by it

struct Pinned {
  uint64_t partial_flag;
  uint32_t query_flag, error;
};

class DoorbellTest : public KernelTest {
 protected:
  void SetUp() override {
    KernelTest::SetUp();
    if (IsSkipped()) return;
    auto memory = PinnedBuffer::Make(sizeof(Pinned), "a test");
    ASSERT_TRUE(memory.ok());
    memory_ = std::move(*memory);
    pinned_ = memory_.as<Pinned>();
    arrivals_.emplace(std::vector<uint32_t>{0});
    value_.emplace(std::vector<uint32_t>{1});
  }
  void SetStep(uint32_t step) { value_->Put({step}); }
  Await MakeAwait(uint64_t timeout_ns) {
    return {.flag = &pinned_->partial_flag,
            .value = value_->get(),
            .error = &pinned_->error,
            .error_code = 42,
            .timeout_ns = timeout_ns};
  }
  Ring MakeRing() { return {.flag = &pinned_->query_flag, .value = value_->get(), .arrivals = arrivals_->get()}; }
  static uint32_t Load(uint32_t& word) { return std::atomic_ref(word).load(std::memory_order_acquire); }
  template <typename T>
  static void Store(T& word, std::type_identity_t<T> value) {
    std::atomic_ref(word).store(value, std::memory_order_release);
  }
  // True when the flag was rung before the deadline.
  static bool Poll(uint32_t& flag, uint32_t value) {
    const auto deadline = std::chrono::steady_clock::now() + std::chrono::seconds(60);
    while (Load(flag) != value) {
      if (std::chrono::steady_clock::now() > deadline) return false;
    }
    return true;
  }

  PinnedBuffer memory_;
  Pinned* pinned_ = nullptr;
  std::optional<DeviceArray<uint32_t>> arrivals_, value_;
};

TEST_F(DoorbellTest, RingsAndWaits) {
  for (uint32_t step = 1; step <= 3; ++step) {
    SetStep(step);
    ExpectCudaOk(RingFlag(MakeRing(), launch_));
    ExpectCudaOk(AwaitFlag(MakeAwait(kLongNs), launch_));
    ASSERT_TRUE(Poll(pinned_->query_flag, step));
    EXPECT_EQ(cudaStreamQuery(stream_.get()), cudaErrorNotReady);
    Store(pinned_->partial_flag, HostFlag(step, 123));
    ExpectCudaOk(cudaStreamSynchronize(stream_.get()));
    EXPECT_EQ(pinned_->error, 0u);
    EXPECT_EQ(arrivals_->Fetch()[0], 0u);
  }
}

TEST_F(DoorbellTest, AWaitEndsAtItsLimitAndLaterOnesFallThrough) {
  ExpectCudaOk(AwaitFlag(MakeAwait(1'000'000), launch_));
  ExpectCudaOk(AwaitFlag(MakeAwait(kLongNs * 1000), launch_));
  ExpectCudaOk(cudaStreamSynchronize(stream_.get()));
  EXPECT_EQ(pinned_->error, 42u);
}

TEST_F(DoorbellTest, TheHostReleasesTheGpu) {
  ExpectCudaOk(AwaitFlag(MakeAwait(kLongNs * 1000), launch_));
  Store(pinned_->error, 7);
  ExpectCudaOk(cudaStreamSynchronize(stream_.get()));
  EXPECT_EQ(pinned_->error, 7u);
}

TEST_F(DoorbellTest, RefusesHalfAFlag) {
  EXPECT_EQ(RingFlag({}, launch_), cudaErrorInvalidValue);
  Await await = MakeAwait(1);
  await.value = nullptr;
  EXPECT_EQ(AwaitFlag(await, launch_), cudaErrorInvalidValue);
}

// One layer's exchange as a step does it: q to the host, a flag, the host's partials fetched and merged. With nothing
// resident, the merge's out is the host's partial.
struct Exchange {
  static constexpr KvGeometry kShape{4, 2, 32};
  static constexpr uint32_t kRows = 3, kMaxSlots = 2;
  static constexpr size_t kQSize = size_t{kRows} * 4 * 32, kQkvSize = 2 * kQSize;
  static constexpr size_t kHeads = size_t{kRows} * kMaxSlots * 4;
  static constexpr size_t kNextFloats = 1'000'003;

  explicit Exchange(std::mt19937_64& random) : qkv(RandomNormal(random, kQkvSize)) {
    auto memory = PinnedBuffer::Make(sizeof(Host), "a test");
    TRIBUTARY_CHECK(memory.ok());
    pinned = std::move(*memory);
    host = pinned.as<Host>();
  }

  void Record(const Ring& ring, const Await& await, const Launch& launch) {
    ExpectCudaOk(FinishQkv({.input = {.qkv = qkv.get(),
                                      .dtype = DType::kF32,
                                      .cos = ones.get(),
                                      .sin = zeros.get(),
                                      .pairs = {kShape.head_dim / 2},
                                      .num_rows = kRows,
                                      .geometry = kShape},
                            .rows = rows.get(),
                            .q = q.get(),
                            .host_q = host->q,
                            .ring = ring},
                           launch));
    ExpectCudaOk(FetchPartials({.await = await,
                                .go = go.get(),
                                .num_rows = kRows,
                                .max_slots = kMaxSlots,
                                .geometry = kShape,
                                .host_num_slots = host->num_slots,
                                .host_out = host->slot_out,
                                .host_lse_ln = host->slot_lse_ln,
                                .num_slots = num_slots.get(),
                                .out = slot_out.get(),
                                .lse_ln = slot_lse_ln.get(),
                                .next = next.get(),
                                .next_bytes = kNextFloats * sizeof(float)},
                               launch));
    ExpectCudaOk(MergePartials({.rows = rows.get(),
                                .num_rows = kRows,
                                .geometry = kShape,
                                .rule = {64, 1},
                                .num_slots = num_slots.get(),
                                .slot_out = slot_out.get(),
                                .slot_lse_ln = slot_lse_ln.get(),
                                .max_slots = kMaxSlots,
                                .out = out.get(),
                                .out_dtype = DType::kF32},
                               launch));
  }

  // One slot for each of the first `filled` rows, with q + `add`. The word to ring with.
  uint32_t Answer(uint32_t filled, float add, bool by_array) {
    for (uint32_t r = 0; r < kRows; ++r) {
      host->num_slots[r] = !by_array ? 77 : r < filled ? 1 : 0;  // 77: nobody may read it
      const size_t row_size = kQSize / kRows;
      for (uint32_t h = 0; h < 4; ++h) host->slot_lse_ln[r * kMaxSlots * 4 + h] = 1.0f;
      for (size_t i = 0; i < row_size; ++i) {
        host->slot_out[r * kMaxSlots * row_size + i] = host->q[r * row_size + i] + add;
      }
    }
    return by_array ? kUnevenSlots : EvenSlots(filled, 1);
  }

  struct Host {
    alignas(16) float q[kQSize];
    alignas(16) float slot_out[kQSize * kMaxSlots];
    alignas(16) float slot_lse_ln[kHeads];
    alignas(16) uint32_t num_slots[kRows];
  };
  PinnedBuffer pinned;
  Host* host = nullptr;
  const std::vector<DecodeRowDesc> padding = std::vector<DecodeRowDesc>(kRows);
  DeviceArray<DecodeRowDesc> rows{padding};
  DeviceArray<float> qkv, q{kQSize}, out{kQSize}, slot_out{kQSize * kMaxSlots}, slot_lse_ln{kHeads};
  DeviceArray<float> ones{std::vector<float>(kRows * 16, 1.0f)};
  DeviceArray<float> zeros{std::vector<float>(kRows * 16, 0.0f)};
  DeviceArray<uint32_t> num_slots{kRows};
  DeviceArray<uint64_t> go{1};
  DeviceArray<float> next{kNextFloats};
};

TEST_F(DoorbellTest, AnExchangeInAGraph) {
  Exchange exchange(random_);
  cudaGraph_t graph = nullptr;
  cudaGraphExec_t executable = nullptr;
  ExpectCudaOk(cudaStreamBeginCapture(stream_.get(), cudaStreamCaptureModeThreadLocal));
  exchange.Record(MakeRing(), MakeAwait(kLongNs), launch_);
  ExpectCudaOk(cudaStreamEndCapture(stream_.get(), &graph));
  ExpectCudaOk(cudaGraphInstantiate(&executable, graph, 0));

  const uint32_t num_steps = TestsAreSmall() ? 6 : 200;  // step 6: uneven
  for (uint32_t step = 1; step <= num_steps; ++step) {
    SetStep(step);
    ExpectCudaOk(cudaGraphLaunch(executable, stream_.get()));
    ASSERT_TRUE(Poll(pinned_->query_flag, step));
    const uint32_t filled = step % (Exchange::kRows + 1);  // none at all now and then
    const uint32_t word = exchange.Answer(filled, static_cast<float>(step), step % 3 == 0);
    Store(pinned_->partial_flag, HostFlag(step, word));
    ExpectCudaOk(cudaStreamSynchronize(stream_.get()));
    ASSERT_EQ(pinned_->error, 0u);
    const std::vector<float>&merged = exchange.out.Fetch(), &query = exchange.q.Fetch();
    for (size_t i = 0; i < Exchange::kQSize; ++i) {
      const bool has_partial = i < filled * Exchange::kQSize / Exchange::kRows;
      ASSERT_EQ(merged[i], has_partial ? query[i] + static_cast<float>(step) : 0.0f) << "step " << step << ", " << i;
    }
  }
  ExpectCudaOk(cudaGraphExecDestroy(executable));
  ExpectCudaOk(cudaGraphDestroy(graph));
}

}  // namespace
}  // namespace tributary::gpu

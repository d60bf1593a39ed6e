// What a facet is told on the host device and on the tests' device, and when: by a policy that this binary brings
// along.
#include "gpu_worker/device/host/policy/host_facet.h"

#include <cmath>
#include <cstring>
#include <deque>
#include <map>
#include <string>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "policy/policy.h"
#include "policy/policy_registry.h"
#include "policy/sparse_params.h"
#include "tests/testutil/device_driver.h"
#include "tests/testutil/random_model.h"
#include "tests/testutil/temp_dir.h"
#include "tests/testutil/test_devices.h"
#include "tests/testutil/tiny_device.h"

namespace tributary {
namespace {

using ::testing::ElementsAre;
using ::testing::HasSubstr;

constexpr AttentionShape kShape{.num_q_heads = 4, .num_kv_heads = 2, .head_dim = 8};
constexpr uint32_t kLayers = 2;

// Writes down what happens, as text.
class Watcher final : public HostFacet {
 public:
  Watcher(const FacetSpec& spec, const HostFacetMemory& memory, bool follows)
      : HostFacet(Rows::kLastOfSequence, follows), memory_bytes(memory.parts[0].size()), read_kv_(memory.read_kv) {
    EXPECT_EQ(spec.max_context_tokens, 70u);
    EXPECT_EQ(reinterpret_cast<uintptr_t>(memory.parts[1].data()) % 64, 0u);
    std::memset(memory.parts[1].data(), 0x55, memory.parts[1].size());
    last = this;
  }
  ~Watcher() override { last = nullptr; }

  void OnNewTokens(uint32_t layer, SlotRange slots) override {
    log.push_back("new " + std::to_string(layer) + ":" + std::to_string(slots.begin) + "-" + std::to_string(slots.end));
  }
  void OnQuery(const HostQuery& query) override {
    log.push_back("query " + std::to_string(query.layer) + " row " + std::to_string(query.row_idx));
    q[query.row_idx].assign(query.q.begin(), query.q.end());
    std::vector<float> k(kShape.num_kv_heads * kShape.head_dim), v(k.size());
    read_kv_(query.layer, {query.row.append_slot, query.row.append_slot + 1}, {0, kShape.num_kv_heads},
             std::as_writable_bytes(std::span(k)), std::as_writable_bytes(std::span(v)));
    for (const float value : k) EXPECT_TRUE(std::isfinite(value)) << "K is not there yet";
  }
  void OnAttended(const HostAttention& attention) override {
    log.push_back("attended " + std::to_string(attention.layer) + " head " + std::to_string(attention.kv_head));
    ++num_attended;
    num_weighed += attention.weights.empty() ? 0 : 1;
    for (uint32_t head = 0; head < kShape.group_size() && !attention.weights.empty(); ++head) {
      CheckWeights(attention, head);
    }
    ASSERT_EQ(attention.q.size(), kShape.group_size() * kShape.head_dim);
    const std::vector<float>& of_row = q[attention.row_idx];
    for (size_t i = 0; i < attention.q.size(); ++i) {
      EXPECT_EQ(attention.q[i], of_row[attention.kv_head * attention.q.size() + i]);
    }
  }
  // The weights are those of `out`: they add up to 1, and weigh V.
  void CheckWeights(const HostAttention& attention, uint32_t head) {
    double sum = 0;
    std::vector<double> out(kShape.head_dim);
    for (const WeightRun& run : attention.weights) {
      const uint32_t slots = run.slots.end - run.slots.begin;
      ASSERT_EQ(run.weights.size(), size_t{slots} * kShape.group_size());
      std::vector<float> k(slots * kShape.head_dim), v(k.size());
      read_kv_(attention.layer, run.slots, {attention.kv_head, attention.kv_head + 1},
               std::as_writable_bytes(std::span(k)), std::as_writable_bytes(std::span(v)));
      for (uint32_t slot = 0; slot < slots; ++slot) {
        const double weight = run.weights[head * slots + slot];
        sum += weight;
        for (uint32_t d = 0; d < kShape.head_dim; ++d) out[d] += weight * v[slot * kShape.head_dim + d];
      }
    }
    EXPECT_NEAR(sum, 1, 1e-5);
    for (uint32_t d = 0; d < kShape.head_dim; ++d) EXPECT_NEAR(attention.out[head * kShape.head_dim + d], out[d], 1e-5);
  }
  std::unique_ptr<const SpillSections> OnPrompt(const HostPrompt& prompt) override {
    log.push_back("prompt " + std::to_string(prompt.layer) + ":" + std::to_string(prompt.tokens.begin) + "-" +
                  std::to_string(prompt.tokens.end));
    prompt_k.assign(prompt.k.begin(), prompt.k.end());
    return nullptr;
  }

  static inline Watcher* last = nullptr;
  const size_t memory_bytes;
  std::vector<std::string> log;
  std::map<uint32_t, std::vector<float>> q;  // by row
  std::vector<std::byte> prompt_k;
  int num_attended = 0;
  int num_weighed = 0;

 private:
  decltype(HostFacetMemory::read_kv) read_kv_;
};

class EverythingPolicy final : public AttentionPolicy {
 public:
  const PolicyNeeds& needs() const override { return needs_; }
  bool IsAlwaysDense(uint32_t layer, uint32_t kv_head) const override { return false; }

 private:
  const PolicyNeeds needs_{};
};

const PolicyRules& RulesOf(const char* name) {
  static std::deque<PolicyRules> rules;  // the registry refers to them
  return rules.emplace_back(PolicyRules{.name = name,
                                        .parameters = WithSparseParameters({}),
                                        .make = [](const PolicyParams&) -> std::unique_ptr<const AttentionPolicy> {
                                          return std::make_unique<EverythingPolicy>();
                                        }});
}

template <bool kFollows>
HostSeat WatcherSeat() {
  return {
      .parts = [](const FacetSpec& spec) -> std::vector<PolicyBytes> {
        return {{"notes", spec.capacity_tokens * 10}, {"more", 7}};
      },
      .make = [](const FacetSpec& spec, const HostFacetMemory& memory) -> absl::StatusOr<std::unique_ptr<HostFacet>> {
        return std::make_unique<Watcher>(spec, memory, kFollows);
      }};
}

PolicyParams PolicyNamed(const char* name) {
  static const bool added = [] {
    for (const char* policy : {"watch", "watch_late", "nowhere"}) AddPolicy(RulesOf(policy));
    HostSeats().Add("watch", WatcherSeat<false>());
    HostSeats().Add("watch_late", WatcherSeat<true>());
    return true;
  }();
  EXPECT_TRUE(added);
  return *ResolvePolicy({.name = name, .parameters = {}}, {});
}

class HostFacetTest : public ::testing::TestWithParam<bool> {
 protected:
  void SetUp() override {
    const DeviceLimits limits{
        .max_batch = 8, .max_partial_slots = 1, .resident_pool_bytes = 1 << 20, .max_prefill_tokens = 100};
    if (!GetParam()) {
      device_ = std::make_unique<TinyDevice>(TinyModel{.shape = kShape, .num_layers = kLayers}, limits);
      return;
    }
    RandomModelOptions options;
    options.num_layers = kLayers;
    options.num_q_heads = kShape.num_q_heads;
    options.num_kv_heads = kShape.num_kv_heads;
    options.head_dim = kShape.head_dim;
    TempDir dir;
    WriteRandomModel(dir.path(), options);
    device_ = *MakeHostDevice(*LoadModelWeights(dir.path()), limits, 2);
  }
  absl::StatusOr<ResidentId> Reserve(const char* policy) {
    const PolicyParams params = PolicyNamed(policy);
    return device_->ReserveResident(
        {.capacity_tokens = 50, .kv_dtype = DType::kF32, .policy = &params, .max_context_tokens = 70});
  }
  void Prefill(ResidentId id) {
    const std::vector<uint32_t> prompt = {1, 2, 3, 4, 5, 6, 7, 8};
    const auto prefill = device_->BeginPrefill(prompt, DType::kF32).value();
    for (uint32_t layer = 0; layer < kLayers; ++layer) {
      prefill->Project(layer, 0, prompt.size());
      prefill->Keep(layer, id, 0, {0, 2});
      EXPECT_EQ(prefill->Leave(layer, id, {2, 5}), nullptr);
      std::vector<std::byte> k(3 * kShape.num_kv_heads * kShape.head_dim * sizeof(float)), v(k.size());
      prefill->Read(2, 3, {0, kShape.num_kv_heads}, k, v);
      EXPECT_EQ(Watcher::last->prompt_k, k);
      prefill->Keep(layer, id, 5, {2, 5});
      prefill->Attend(layer, 0, prompt.size());
    }
  }
  std::vector<std::string> TakeLog() { return std::exchange(Watcher::last->log, {}); }

  std::unique_ptr<Device> device_;
};

TEST_P(HostFacetTest, IsToldOfEverythingInOrder) {
  const ResidentId id = *Reserve("watch");
  EXPECT_EQ(device_->facet(id), Watcher::last);
  EXPECT_EQ(Watcher::last->memory_bytes, 500u);
  Prefill(id);
  EXPECT_THAT(TakeLog(),
              ElementsAre("new 0:0-2", "prompt 0:2-5", "new 0:2-5", "new 1:0-2", "prompt 1:2-5", "new 1:2-5"));
  const ResidentId plain = *device_->ReserveResident({4, DType::kF32});
  EXPECT_EQ(device_->facet(plain), nullptr);
  const DecodeRow rows[] = {ContiguousRow(plain, 3, 0), ContiguousRow(id, 9, 5)};
  device_->BeginStep(rows);
  const uint32_t no_slots[] = {0, 0};
  for (uint32_t layer = 0; layer < kLayers; ++layer) {
    const std::span<const float> q = device_->AwaitQuery(layer);
    const std::string l = std::to_string(layer);
    EXPECT_THAT(TakeLog(), ElementsAre("new " + l + ":5-6", "query " + l + " row 1"));
    const std::vector<float>& seen = Watcher::last->q.at(1);
    EXPECT_TRUE(std::equal(seen.begin(), seen.end(), q.begin() + static_cast<std::ptrdiff_t>(seen.size())));
    device_->AttendResident(layer);
    EXPECT_THAT(TakeLog(), ElementsAre("attended " + l + " head 0", "attended " + l + " head 1"));
    device_->FinishLayer(layer, no_slots);
  }
  device_->EndStep();
  EXPECT_EQ(Watcher::last->num_weighed, static_cast<int>(kLayers * kShape.num_kv_heads));
  device_->ReleaseResident(id);
  EXPECT_EQ(Watcher::last, nullptr);
}

// Of several rows of a sequence, the facet asked for the weights of the last.
TEST_P(HostFacetTest, GetsTheWeightsOfTheRowsThatItWants) {
  const ResidentId id = *Reserve("watch");
  Prefill(id);
  DecodeRow rows[] = {ContiguousRow(id, 3, 5), ContiguousRow(id, 9, 6)};
  rows[0].step_tokens = 0;
  rows[1].step_tokens = 2;
  DecodeResident(*device_, kLayers, rows);
  EXPECT_EQ(Watcher::last->num_attended, static_cast<int>(2 * kLayers * kShape.num_kv_heads));
  EXPECT_EQ(Watcher::last->num_weighed, static_cast<int>(kLayers * kShape.num_kv_heads));
}

// What goes out behind q may depend on the resident attention: it goes first then.
TEST_P(HostFacetTest, AttentionGoesFirstWhereTheQueryFollowsIt) {
  const ResidentId id = *Reserve("watch_late");
  Prefill(id);
  TakeLog();
  const DecodeRow row = ContiguousRow(id, 9, 5);
  const std::vector<float> logits = DecodeResident(*device_, kLayers, {&row, 1});
  EXPECT_THAT(TakeLog(), ElementsAre("new 0:5-6", "query 0 row 0", "attended 0 head 0", "attended 0 head 1",
                                     "new 1:5-6", "query 1 row 0", "attended 1 head 0", "attended 1 head 1"));
  device_->BeginStep({&row, 1});
  device_->AwaitQuery(0);
  EXPECT_EQ(TakeLog().size(), 4u) << "before q is handed out";
}

TEST_P(HostFacetTest, APolicyWithoutASeatIsUnimplemented) {
  const absl::Status status = Reserve("nowhere").status();
  EXPECT_TRUE(absl::IsUnimplemented(status)) << status;
  EXPECT_THAT(std::string(status.message()), HasSubstr("'nowhere'"));
}

TEST_P(HostFacetTest, DenseKeepsNothing) {
  const ResidentId id = *Reserve("dense");
  EXPECT_EQ(device_->facet(id), nullptr);
  EXPECT_TRUE(device_->memory().policy_bytes.empty());
}

INSTANTIATE_TEST_SUITE_P(Devices, HostFacetTest, ::testing::Bool(),
                         [](const ::testing::TestParamInfo<bool>& info) { return info.param ? "host" : "tiny"; });

}  // namespace
}  // namespace tributary

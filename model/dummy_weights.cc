#include "model/dummy_weights.h"

#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cmath>
#include <cstring>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/dtype.h"
#include "base/status.h"
#include "fmt/format.h"
#include "model/weight_slots.h"

namespace tributary {
namespace {

constexpr size_t kPageBytes = 4096;
// A prime number of pages: the rows of a matrix, which are often a power of two long, come round late.
constexpr size_t kBlockPages = 8191;
constexpr size_t kBlockBytes = kBlockPages * kPageBytes;
constexpr float kStandardDeviation = 0.02f;

uint64_t SplitMix(uint64_t& state) {
  uint64_t z = (state += 0x9e3779b97f4a7c15u);
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

// A sum of four uniform numbers: near enough to normal, and the same bits everywhere.
float RandomWeight(uint64_t& state) {
  const uint64_t bits = SplitMix(state);
  int32_t sum = 0;
  for (int part = 0; part < 4; ++part) sum += static_cast<int32_t>((bits >> (16 * part)) & 0xffff);
  // Four uniforms on [0, 2^16) have mean 2^17 and variance 4 * 2^32 / 12.
  const float deviation = 65536.0f * 0.57735027f;
  return (static_cast<float>(sum) - 131070.0f) * (kStandardDeviation / deviation);
}

absl::Status NoMap(const char* what, size_t bytes) {
  return absl::ResourceExhaustedError(
      fmt::format("dummy weights: cannot {} {} bytes: {}", what, bytes, strerror(errno)));
}

// One block of bytes, mapped again and again.
class RepeatedBlock {
 public:
  RepeatedBlock() = default;
  RepeatedBlock(RepeatedBlock&& other) noexcept : map_(std::exchange(other.map_, {})) {}
  RepeatedBlock& operator=(RepeatedBlock&&) = delete;
  ~RepeatedBlock() {
    if (!map_.empty()) munmap(map_.data(), map_.size());
  }

  // At least `bytes` long.
  static absl::StatusOr<RepeatedBlock> Make(size_t bytes, DType dtype, uint64_t seed) {
    RepeatedBlock block;
    const size_t repeats = bytes / kBlockBytes + 1;
    const int file = memfd_create("tributary-dummy-weights", MFD_CLOEXEC);
    if (file < 0) return NoMap("create a memory file of", kBlockBytes);
    const absl::Status status = block.Map(file, repeats);
    close(file);
    if (!status.ok()) return status;
    Fill(block.map_.first(kBlockBytes), dtype, seed);
    return block;
  }

  std::span<const std::byte> bytes() const { return map_; }

 private:
  absl::Status Map(int file, size_t repeats) {
    if (ftruncate(file, static_cast<off_t>(kBlockBytes)) != 0) return NoMap("reserve", kBlockBytes);
    const size_t bytes = repeats * kBlockBytes;
    void* place = mmap(nullptr, bytes, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (place == MAP_FAILED) return NoMap("map", bytes);
    map_ = {static_cast<std::byte*>(place), bytes};
    for (size_t i = 0; i < repeats; ++i) {
      if (mmap(map_.data() + i * kBlockBytes, kBlockBytes, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, file, 0) ==
          MAP_FAILED) {
        return NoMap("map", bytes);
      }
    }
    return absl::OkStatus();
  }

  static void Fill(std::span<std::byte> block, DType dtype, uint64_t seed) {
    float values[1024];
    const size_t step_bytes = std::size(values) * DTypeBytes(dtype);
    for (size_t at = 0; at < block.size(); at += step_bytes) {
      for (float& value : values) value = RandomWeight(seed);
      ConvertFromF32(dtype, values, std::size(values), block.data() + at);
    }
  }

  std::span<std::byte> map_;
};

// What the views of one ModelWeights point to.
struct DummyStorage {
  RepeatedBlock random;
  std::vector<std::byte> ones;
  std::vector<TensorView> tensors;
};

TensorType StoredType(DType dtype) {
  if (dtype == DType::kF32) return TensorType::kF32;
  return dtype == DType::kF16 ? TensorType::kF16 : TensorType::kBf16;
}

bool IsNorm(const std::string& name) { return name.find("norm.weight") != std::string::npos; }

uint64_t TensorBytes(const WeightSlot& slot, TensorType type) {
  uint64_t bytes = TensorTypeBytes(type);
  for (const uint64_t size : slot.shape) bytes *= size;
  return bytes;
}

}  // namespace

absl::StatusOr<std::shared_ptr<const ModelWeights>> MakeDummyWeights(const std::filesystem::path& model_dir,
                                                                     uint64_t seed) {
  auto weights = std::make_shared<ModelWeights>();
  TRIBUTARY_ASSIGN_OR_RETURN(weights->config, LoadModelConfig(model_dir));
  const TensorType type = StoredType(weights->config.stored_dtype);
  const std::vector<WeightSlot> slots = AllWeightSlots(*weights);
  uint64_t max_bytes = 0;
  for (const WeightSlot& slot : slots) max_bytes = std::max(max_bytes, TensorBytes(slot, type));

  // Each tensor begins at a random page of the block.
  TRIBUTARY_ASSIGN_OR_RETURN(RepeatedBlock random, RepeatedBlock::Make(kBlockBytes + max_bytes, ToDType(type), seed));
  auto storage = std::make_shared<DummyStorage>(DummyStorage{std::move(random), {}, {}});
  const AttentionShape& shape = weights->config.attention;
  const uint32_t widest_norm = std::max(weights->config.hidden_size, shape.num_q_heads * shape.head_dim);
  // What makes a norm do nothing: 1, or 0 where weights are stored less 1.
  const auto one = static_cast<float>(1.0 - weights->config.norm_weight_offset);
  const std::vector<float> ones(widest_norm, one);
  storage->ones.resize(ones.size() * TensorTypeBytes(type));
  ConvertFromF32(ToDType(type), ones.data(), ones.size(), storage->ones.data());
  storage->tensors.reserve(slots.size());
  for (const WeightSlot& slot : slots) {
    const uint64_t bytes = TensorBytes(slot, type);
    const uint64_t offset = SplitMix(seed) % kBlockPages * kPageBytes;
    const std::span<const std::byte> values = IsNorm(slot.name) ? std::span<const std::byte>(storage->ones).first(bytes)
                                                                : storage->random.bytes().subspan(offset, bytes);
    storage->tensors.push_back({slot.name, type, slot.shape, values});
    *slot.destination = &storage->tensors.back();
  }
  FinishWeights(*weights);
  weights->dummy = std::move(storage);
  return std::shared_ptr<const ModelWeights>(std::move(weights));
}

}  // namespace tributary

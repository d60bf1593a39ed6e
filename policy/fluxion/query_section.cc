#include "policy/fluxion/query_section.h"

#include <cstring>

#include "base/check.h"

namespace tributary {
namespace {

enum PartKind : uint32_t { kLse = 1, kOut = 2, kBudgets = 3, kErrors = 4 };

constexpr size_t kHeaderBytes = 2 * sizeof(uint32_t);

static_assert(sizeof(PredictedBudget) == 2 * sizeof(float), "they travel as they are");

uint32_t U32At(std::span<const std::byte> bytes, size_t offset) {
  uint32_t value = 0;
  std::memcpy(&value, bytes.data() + offset, sizeof(value));
  return value;
}

// Takes a part from the front of what is left.
class PartReader {
 public:
  explicit PartReader(std::span<const std::byte> section) : left_(section) {}

  bool is_at_end() const { return left_.empty(); }
  bool NextIs(PartKind kind) const { return left_.size() >= kHeaderBytes && U32At(left_, 0) == kind; }
  // False if the next part is of another kind or size, or is not whole.
  bool Take(PartKind kind, uint64_t bytes, std::span<const std::byte>* payload) {
    if (!NextIs(kind) || U32At(left_, sizeof(uint32_t)) != bytes || left_.size() - kHeaderBytes < bytes) return false;
    *payload = left_.subspan(kHeaderBytes, bytes);
    left_ = left_.subspan(kHeaderBytes + bytes);
    return true;
  }

 private:
  std::span<const std::byte> left_;
};

class PartWriter {
 public:
  explicit PartWriter(std::span<std::byte> section) : left_(section) {}

  void Begin(PartKind kind, size_t bytes) {
    const uint32_t header[] = {kind, static_cast<uint32_t>(bytes)};
    Put(header, sizeof(header));
  }
  void Put(const void* bytes, size_t count) {
    TRIBUTARY_CHECK_LE(count, left_.size());
    std::memcpy(left_.data(), bytes, count);
    left_ = left_.subspan(count);
  }
  size_t num_left() const { return left_.size(); }

 private:
  std::span<std::byte> left_;
};

}  // namespace

size_t FluxionQuerySectionBytes(const FluxionQueryForm& form) {
  const size_t of_heads = size_t{form.num_q_heads} * sizeof(float);
  size_t bytes = kHeaderBytes + of_heads;
  if (form.has_out) bytes += kHeaderBytes + of_heads * form.head_dim;
  if (form.has_budgets) bytes += kHeaderBytes + of_heads * 2;
  if (form.has_errors) bytes += kHeaderBytes + sizeof(uint32_t) + of_heads;
  return bytes;
}

bool DecodeFluxionQuerySection(std::span<const std::byte> section, const FluxionQueryForm& form,
                               FluxionQuerySection* to) {
  FluxionQuerySection decoded;
  PartReader reader(section);
  if (!section.empty()) {
    const uint64_t of_heads = uint64_t{form.num_q_heads} * sizeof(float);
    if (!reader.Take(kLse, of_heads, &decoded.lse_ln)) return false;
    if (form.has_out && !reader.Take(kOut, of_heads * form.head_dim, &decoded.out)) return false;
    if (form.has_budgets && !reader.Take(kBudgets, of_heads * 2, &decoded.budgets)) return false;
    if (form.has_errors && reader.NextIs(kErrors)) {
      std::span<const std::byte> payload;
      if (!reader.Take(kErrors, sizeof(uint32_t) + of_heads, &payload)) return false;
      decoded.error_number = U32At(payload, 0);
      if (decoded.error_number == 0) return false;
      decoded.errors = payload.subspan(sizeof(uint32_t));
    }
  }
  if (!reader.is_at_end()) return false;
  *to = decoded;
  return true;
}

void EncodeFluxionQuerySection(const FluxionQueryParts& parts, std::span<std::byte> section) {
  PartWriter writer(section);
  writer.Begin(kLse, parts.lse_ln.size_bytes());
  writer.Put(parts.lse_ln.data(), parts.lse_ln.size_bytes());
  if (!parts.out.empty()) {
    writer.Begin(kOut, parts.out.size_bytes());
    writer.Put(parts.out.data(), parts.out.size_bytes());
  }
  if (!parts.budgets.empty()) {
    writer.Begin(kBudgets, parts.budgets.size_bytes());
    writer.Put(parts.budgets.data(), parts.budgets.size_bytes());
  }
  if (!parts.errors.empty()) {
    writer.Begin(kErrors, sizeof(uint32_t) + parts.errors.size_bytes());
    writer.Put(&parts.error_number, sizeof(uint32_t));
    writer.Put(parts.errors.data(), parts.errors.size_bytes());
  }
  TRIBUTARY_CHECK_EQ(writer.num_left(), size_t{0});
}

}  // namespace tributary

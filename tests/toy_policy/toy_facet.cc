// The toy policy on the host device: it marks each token that leaves by the first element of its key, tells nodes which
// blocks to read, and checks against its own marks what they say that they have read.
#include "tests/toy_policy/toy_facet.h"

#include <cstring>
#include <map>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "base/dtype.h"
#include "fmt/format.h"
#include "tests/toy_policy/toy_rules.h"
#include "tests/toy_policy/toy_sections.h"

namespace tributary::toy {
namespace {

// Of tokens that leave together; of one layer or of all.
class Marks final : public SpillSections {
 public:
  Marks(uint32_t layer_begin, TokenRange tokens, uint32_t num_kv_heads)
      : layer_begin_(layer_begin), tokens_(tokens), num_kv_heads_(num_kv_heads) {}

  // Of the next layer: [token][kv_head].
  void AddLayer(std::span<const float> marks) { values_.insert(values_.end(), marks.begin(), marks.end()); }

  size_t Bytes(uint32_t num_tokens, HeadRange heads) const override {
    return size_t{num_tokens} * (heads.end - heads.begin) * sizeof(float);
  }
  void Write(uint32_t layer, TokenRange tokens, HeadRange heads, std::span<std::byte> section) const override {
    size_t i = 0;
    for (uint64_t token = tokens.begin; token < tokens.end; ++token) {
      for (uint32_t head = heads.begin; head < heads.end; ++head) {
        const size_t row = (layer - layer_begin_) * tokens_.size() + token - tokens_.begin;
        Store(section, i++, values_[row * num_kv_heads_ + head]);
      }
    }
  }

 private:
  const uint32_t layer_begin_;
  const TokenRange tokens_;
  const uint32_t num_kv_heads_;
  std::vector<float> values_;  // [layer][token][kv_head]
};

class ToyFacet final : public HostFacet {
 public:
  ToyFacet(const FacetSpec& spec, const HostFacetMemory& memory)
      : spec_(spec),
        every_(ReadToyParams(*spec.policy).every),
        read_kv_(memory.read_kv),
        marks_(reinterpret_cast<float*>(memory.parts[0].data()), memory.parts[0].size() / sizeof(float)) {
    spec_.policy = nullptr;
  }

  static std::vector<PolicyBytes> Parts(const FacetSpec& spec) {
    return {{"marks", spec.max_context_tokens * spec.num_layers * spec.shape.num_kv_heads * sizeof(float)}};
  }

  void OnQuery(const HostQuery& query) override {
    phase_of_row_[query.row_idx] = static_cast<uint32_t>(query.row.pos % every_);
  }

  size_t QuerySectionBytes(const FacetQuery& query) const override { return sizeof(uint32_t); }
  void WriteQuerySection(const FacetQuery& query, std::span<std::byte> section) override {
    Store(section, 0, phase_of_row_.at(query.row));
  }

  size_t MaxPartialSectionBytes(const FacetQuery& query) const override {
    return (query.kv_heads.end - query.kv_heads.begin) * sizeof(Read);
  }
  absl::Status OnPartialSection(const FacetQuery& query, std::span<const std::byte> section) override {
    if (section.size() != MaxPartialSectionBytes(query)) {
      return absl::InternalError(fmt::format("toy: a partial with {} bytes of what was read", section.size()));
    }
    for (uint32_t head = query.kv_heads.begin; head < query.kv_heads.end; ++head) {
      const Read expected = ExpectedRead(query, head);
      const Read read = Load<Read>(section, head - query.kv_heads.begin);
      if (read == expected) continue;
      return absl::InternalError(fmt::format("toy: layer {} head {}: {} tokens of marks {} were read, not {} of {}",
                                             query.layer, head, read.num_tokens, read.mark_sum, expected.num_tokens,
                                             expected.mark_sum));
    }
    return absl::OkStatus();
  }

  std::unique_ptr<const SpillSections> OnLeaving(const LeavingBlock& block) override {
    const uint32_t heads = spec_.shape.num_kv_heads;
    auto sections = std::make_unique<Marks>(0, block.tokens, heads);
    std::vector<std::byte> k(block.tokens.size() * RowBytes()), v(k.size());
    for (uint32_t layer = 0; layer < spec_.num_layers; ++layer) {
      size_t at = 0;
      for (const SlotRange& slots : block.slots) {
        const size_t bytes = (slots.end - slots.begin) * RowBytes();
        if (bytes == 0) continue;
        read_kv_(layer, slots, {0, heads}, std::span(k).subspan(at, bytes), std::span(v).subspan(at, bytes));
        at += bytes;
      }
      sections->AddLayer(MarkTokens(layer, block.tokens, k));
    }
    return sections;
  }
  std::unique_ptr<const SpillSections> OnPrompt(const HostPrompt& prompt) override {
    auto sections = std::make_unique<Marks>(prompt.layer, prompt.tokens, spec_.shape.num_kv_heads);
    sections->AddLayer(MarkTokens(prompt.layer, prompt.tokens, prompt.k));
    return sections;
  }

 private:
  size_t RowBytes() const {
    return size_t{spec_.shape.num_kv_heads} * spec_.shape.head_dim * DTypeBytes(spec_.kv_dtype);
  }
  float& MarkOf(uint32_t layer, uint32_t kv_head, uint64_t token) const {
    return marks_[(size_t{layer} * spec_.shape.num_kv_heads + kv_head) * spec_.max_context_tokens + token];
  }

  // Remembers the marks of these tokens, and returns them: [token][kv_head].
  std::vector<float> MarkTokens(uint32_t layer, TokenRange tokens, std::span<const std::byte> k) {
    std::vector<float> marks(tokens.size() * spec_.shape.num_kv_heads);
    for (size_t i = 0; i < marks.size(); ++i) {
      const size_t at = i * spec_.shape.head_dim * DTypeBytes(spec_.kv_dtype);
      ConvertToF32(spec_.kv_dtype, k.data() + at, 1, &marks[i]);
      const auto head = static_cast<uint32_t>(i % spec_.shape.num_kv_heads);
      MarkOf(layer, head, tokens.begin + i / spec_.shape.num_kv_heads) = marks[i];
    }
    return marks;
  }

  Read ExpectedRead(const FacetQuery& query, uint32_t kv_head) const {
    Read read;
    const uint32_t phase = phase_of_row_.at(query.row);
    for (uint64_t token = query.visible.begin; token < query.visible.end; ++token) {
      if (!query.stripe.Owns(token)) continue;
      if (!IsRead(query.stripe.LocalIndex(token) / kBlockTokens, every_, phase)) continue;
      read.mark_sum += double{MarkOf(query.layer, kv_head, token)};
      ++read.num_tokens;
    }
    return read;
  }

  FacetSpec spec_;
  const uint64_t every_;
  const decltype(HostFacetMemory::read_kv) read_kv_;
  const std::span<float> marks_;  // [layer][kv_head][max_context_tokens]
  std::map<uint32_t, uint32_t> phase_of_row_;
};

}  // namespace

HostSeat ToyHostSeat() {
  return {
      .parts = &ToyFacet::Parts,
      .make = [](const FacetSpec& spec, const HostFacetMemory& memory) -> absl::StatusOr<std::unique_ptr<HostFacet>> {
        return std::make_unique<ToyFacet>(spec, memory);
      }};
}

}  // namespace tributary::toy

#include "cpu_attention_service/kernels/selection/block_selection.h"

#include <cstdint>
#include <iterator>
#include <string>

#include "cpu_attention_service/kernels/kernels.h"
#include "fmt/format.h"

namespace tributary::block_selection {
namespace {

constexpr uint32_t kIsaAvx512Lanes = kIsaAvx512f | kIsaAvx512bw | kIsaAvx512dq | kIsaAvx512vl;
constexpr uint32_t kIsaVbmi2Lanes = kIsaAvx512Lanes | kIsaAvx512vnni | kIsaAvx512vbmi2;

const BlockSelectionKernel kKernels[] = {
#if defined(__x86_64__)
    {"amx", kIsaVbmi2Lanes | kIsaAmxTile | kIsaAmxInt8, BlockSelectionAmx()},
    {"avx512_vbmi2", kIsaVbmi2Lanes, BlockSelectionAvx512Vbmi2()},
    {"avx512_vnni", kIsaAvx512Lanes | kIsaAvx512vnni, BlockSelectionAvx512Vnni()},
    {"avx512", kIsaAvx512Lanes, BlockSelectionAvx512()},
    {"avx2", kIsaAvx2 | kIsaFma, BlockSelectionAvx2()},
#endif
    {"scalar", 0, BlockSelectionScalar()},
};

bool IsSupported(const BlockSelectionKernel& kernel) {
  return (kernel.required_isa & ~cpu_kernels::SupportedIsa()) == 0;
}

}  // namespace

std::span<const BlockSelectionKernel> All() { return kKernels; }

const BlockSelectionKernel& Best() {
  for (const BlockSelectionKernel& kernel : kKernels) {
    if (IsSupported(kernel)) return kernel;
  }
  return kKernels[std::size(kKernels) - 1];
}

absl::StatusOr<const BlockSelectionKernel*> Find(std::string_view name) {
  std::string names;
  for (const BlockSelectionKernel& kernel : kKernels) {
    if (name == kernel.name) {
      if (IsSupported(kernel)) return &kernel;
      return absl::FailedPreconditionError(
          fmt::format("this CPU cannot run the block selection '{}'; take '{}'", name, Best().name));
    }
    names += fmt::format("{}{}", names.empty() ? "" : ", ", kernel.name);
  }
  return absl::NotFoundError(fmt::format("there is no block selection '{}'; choose one of: {}", name, names));
}

absl::Status Validate(const ScoreBlocksArgs& args) {
  const auto wrong = [](const std::string& what) { return absl::InvalidArgumentError("block scores: " + what); };
  const BlockSummaryLayout& layout = args.layout;
  if (layout.head_dim == 0 || layout.head_dim > limits::kMaxHeadDim) {
    return wrong(fmt::format("head_dim is {}; it must be 1 to {}", layout.head_dim, limits::kMaxHeadDim));
  }
  if (layout.record_bytes != MakeBlockSummaryLayout(layout.kind, layout.storage, layout.head_dim).record_bytes) {
    return wrong(fmt::format("record_bytes is {}; make the layout with MakeBlockSummaryLayout", layout.record_bytes));
  }
  if (args.group_size == 0 || args.group_size > limits::kMaxGroupSize) {
    return wrong(fmt::format("group_size is {}; it must be 1 to {}", args.group_size, limits::kMaxGroupSize));
  }
  if (args.scores != nullptr && args.score_stride < args.num_blocks) {
    return wrong(fmt::format("score_stride {} is less than num_blocks {}", args.score_stride, args.num_blocks));
  }
  if (args.num_blocks != 0 && (args.records == nullptr || args.q == nullptr)) {
    return wrong("records or q is null");
  }
  if (reinterpret_cast<uintptr_t>(args.records) % 64 != 0) {
    return wrong("records are not aligned to 64 bytes");
  }
  return absl::OkStatus();
}

absl::Status Validate(const ScoreKeysArgs& args) {
  const auto wrong = [](const std::string& what) { return absl::InvalidArgumentError("key scores: " + what); };
  const KeyCodeLayout& layout = args.layout;
  if (!IsKeyCodeBits(layout.bits)) return wrong(fmt::format("{} bits; use 1, 2 or 4", layout.bits));
  if (layout.head_dim == 0 || layout.head_dim > limits::kMaxHeadDim) {
    return wrong(fmt::format("head_dim is {}; it must be 1 to {}", layout.head_dim, limits::kMaxHeadDim));
  }
  if (layout.record_bytes != MakeKeyCodeLayout(layout.bits, layout.head_dim).record_bytes) {
    return wrong(fmt::format("record_bytes is {}; make the layout with MakeKeyCodeLayout", layout.record_bytes));
  }
  if (args.group_size == 0 || args.group_size > limits::kMaxGroupSize) {
    return wrong(fmt::format("group_size is {}; it must be 1 to {}", args.group_size, limits::kMaxGroupSize));
  }
  if (args.num_tokens % kKeyCodeRecordTokens != 0) {
    return wrong(fmt::format("num_tokens is {}; it must be a multiple of {}", args.num_tokens, kKeyCodeRecordTokens));
  }
  if (args.record_step == 0) return wrong("record_step is 0; it must be 1 or more");
  if (args.num_tokens != 0 && (args.records == nullptr || args.q == nullptr || args.least == nullptr)) {
    return wrong("records, q or least is null");
  }
  for (uint32_t head = 0; head < args.group_size && args.num_tokens != 0; ++head) {
    if (args.found == nullptr || args.found[head].ids == nullptr || args.found[head].scores == nullptr) {
      return wrong(fmt::format("there is no place for what head {} finds", head));
    }
  }
  if (reinterpret_cast<uintptr_t>(args.records) % 64 != 0) return wrong("records are not aligned to 64 bytes");
  return absl::OkStatus();
}

}  // namespace tributary::block_selection

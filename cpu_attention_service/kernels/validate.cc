#include <cmath>

#include "base/status.h"
#include "cpu_attention_service/kernels/kernels.h"
#include "fmt/format.h"

namespace tributary::cpu_kernels {
namespace {

constexpr uint64_t kMaxTokens = limits::kMaxContextTokens;

absl::Status Invalid(std::string_view what) {
  return absl::InvalidArgumentError(fmt::format("decode attention: {}", what));
}

bool IsAligned(const void* tile) { return reinterpret_cast<uintptr_t>(tile) % kKvTileAlignBytes == 0; }

absl::Status CheckStorage(const CpuKernel& kernel, const char* which, KvStorage storage) {
  if (!IsValidKvStorage(storage)) {
    return Invalid(
        fmt::format("{} storage {} does not exist (attention/kv/kv_tile_layout.h)", which, static_cast<int>(storage)));
  }
  if ((kernel.storages >> static_cast<uint32_t>(storage) & 1) == 0) {
    return absl::FailedPreconditionError(
        fmt::format("decode attention: kernel '{}' does not serve {} storage {}; choose another "
                    "kernel or KV dtype",
                    kernel.name, which, static_cast<int>(storage)));
  }
  return absl::OkStatus();
}

absl::Status CheckNumbers(const DecodeAttentionArgs& args) {
  if (args.n_q < 1 || args.n_q > kMaxKernelQueryTokens) {
    return Invalid(fmt::format("n_q is {}; it must be in [1, {}]: split the query", args.n_q, kMaxKernelQueryTokens));
  }
  if (!std::isfinite(args.softmax_scale)) {
    return Invalid(fmt::format("softmax_scale is {}; it must be finite", args.softmax_scale));
  }
  if (!std::isfinite(args.soft_cap) || args.soft_cap < 0) {
    return Invalid(fmt::format("soft_cap is {}; it must be finite and not negative, 0 for none", args.soft_cap));
  }
  if (args.token_weights != nullptr && (args.pieces != nullptr || args.visible_end != nullptr)) {
    return Invalid("token_weights are of a run that all query tokens see: no pieces, no visible_end");
  }
  if ((args.q == nullptr && args.given_weights == nullptr) || args.out == nullptr || args.lse_ln == nullptr) {
    return Invalid("q, out and lse_ln must not be null");
  }
  for (const void* floats :
       {static_cast<const void*>(args.q), static_cast<const void*>(args.out), static_cast<const void*>(args.lse_ln)}) {
    if (reinterpret_cast<uintptr_t>(floats) % alignof(float) == 0) continue;
    return Invalid(fmt::format("q, out or lse_ln is at {}; they must be aligned to {} bytes", floats, alignof(float)));
  }
  return absl::OkStatus();
}

absl::Status CheckRun(const DecodeAttentionArgs& args, uint64_t tile_bytes) {
  if (args.token_begin > args.token_end || args.token_end > kMaxTokens) {
    return Invalid(
        fmt::format("tokens [{}, {}) are no range inside [0, {})", args.token_begin, args.token_end, kMaxTokens));
  }
  if (args.token_begin == args.token_end) return absl::OkStatus();
  if (args.tiles == nullptr || !IsAligned(args.tiles)) {
    return Invalid(fmt::format("tiles are at {}; they must be aligned to {} bytes", args.tiles, kKvTileAlignBytes));
  }
  const uint64_t needed_bytes = KvTilesFor(args.token_end) * args.layout->record_bytes;
  if (needed_bytes > tile_bytes) {
    return Invalid(
        fmt::format("tokens up to {} need {} bytes of tiles; there are {}", args.token_end, needed_bytes, tile_bytes));
  }
  return absl::OkStatus();
}

absl::Status CheckRows(const DecodeAttentionArgs& args) {
  if ((args.row_masks != nullptr || args.given_weights != nullptr) && args.pieces == nullptr) {
    return Invalid("row_masks and given_weights are of a list of pieces");
  }
  if (args.row_masks != nullptr && args.row_mask_stride < args.n_q * args.group_size) {
    return Invalid(
        fmt::format("row_mask_stride is {}; there are {} rows", args.row_mask_stride, args.n_q * args.group_size));
  }
  if (args.given_weights != nullptr &&
      (args.row_masks != nullptr || args.visible_end != nullptr || args.token_weights != nullptr)) {
    return Invalid("given_weights say what each row sees: no row_masks, no visible_end, no token_weights");
  }
  return absl::OkStatus();
}

absl::Status CheckPieces(const DecodeAttentionArgs& args) {
  for (uint32_t i = 0; i < args.num_pieces; ++i) {
    const KvPiece& piece = args.pieces[i];
    if (piece.token_mask == 0) continue;
    if (piece.tile == nullptr || !IsAligned(piece.tile)) {
      return Invalid(fmt::format("the tile of piece {} is at {}; it must be aligned to {} bytes", i, piece.tile,
                                 kKvTileAlignBytes));
    }
    if (piece.first_position > kMaxTokens) {
      return Invalid(fmt::format("piece {} begins at position {}; at most {}", i, piece.first_position, kMaxTokens));
    }
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status ValidateKernelShape(const CpuKernel& kernel, const KvTileLayout& layout, uint32_t group_size) {
  if (layout.head_dim < 1 || layout.head_dim > limits::kMaxHeadDim) {
    return Invalid(fmt::format("head_dim is {}; it must be in [1, {}]", layout.head_dim, limits::kMaxHeadDim));
  }
  if (group_size < 1 || group_size > limits::kMaxGroupSize) {
    return Invalid(fmt::format("group_size is {}; it must be in [1, {}]", group_size, limits::kMaxGroupSize));
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckStorage(kernel, "K", layout.k_storage));
  TRIBUTARY_RETURN_IF_ERROR(CheckStorage(kernel, "V", layout.v_storage));
  if (!(layout == MakeKvTileLayout(layout.k_storage, layout.v_storage, layout.head_dim))) {
    return Invalid("the layout is not the one of MakeKvTileLayout for its storages and head_dim");
  }
  return absl::OkStatus();
}

absl::Status ValidateDecodeAttention(const CpuKernel& kernel, const DecodeAttentionArgs& args, uint64_t tile_bytes) {
  if (args.layout == nullptr) return Invalid("layout must not be null");
  TRIBUTARY_RETURN_IF_ERROR(ValidateKernelShape(kernel, *args.layout, args.group_size));
  TRIBUTARY_RETURN_IF_ERROR(CheckNumbers(args));
  TRIBUTARY_RETURN_IF_ERROR(CheckRows(args));
  return args.pieces != nullptr ? CheckPieces(args) : CheckRun(args, tile_bytes);
}

}  // namespace tributary::cpu_kernels

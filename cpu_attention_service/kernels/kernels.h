// The decode-attention kernels of this binary, and the choice among them.
//
// Thread-safe. A kernel is a leaf: pointers in, numbers out (decode_attention_args.h); it knows no
// shard and no frame.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "attention/kv/kv_pack.h"
#include "base/dtype.h"
#include "cpu_attention_service/kernels/decode_attention_args.h"

namespace tributary {

// Bits of CpuKernel::required_isa and of SupportedIsa().
enum IsaFeature : uint32_t {
  kIsaAvx2 = 1u << 0,
  kIsaFma = 1u << 1,
  kIsaF16c = 1u << 2,
  kIsaAvx512f = 1u << 3,
  kIsaAvx512bw = 1u << 4,
  kIsaAvx512dq = 1u << 5,
  kIsaAvx512vl = 1u << 6,
  kIsaAvx512vnni = 1u << 7,
  kIsaAvx512bf16 = 1u << 8,
  kIsaAvx512vbmi = 1u << 9,
  kIsaAmxTile = 1u << 10,  // and the kernel lets this process use it
  kIsaAmxBf16 = 1u << 11,
  kIsaAmxInt8 = 1u << 12,
  kIsaAvx512vbmi2 = 1u << 13,
};

struct CpuKernel {
  const char* name;
  uint32_t required_isa;
  uint32_t storages;  // bit 1 << KvStorage: K and V storages it serves, in any combination
  DecodeAttentionFn fn;
  KvPackFn pack;
};

// Needs AVX-512 F, BW, DQ and VL.
void PackKvAvx512(const KvPackArgs& args);

namespace cpu_kernels {

// What this machine (and its operating system) can run.
uint32_t SupportedIsa();
inline bool IsSupported(const CpuKernel& kernel) { return (kernel.required_isa & ~SupportedIsa()) == 0; }

// Every kernel built in, best first; the last one runs everywhere.
std::span<const CpuKernel> All();
// The best that this machine supports.
const CpuKernel& Best();
// NOT_FOUND (the names there are) or FAILED_PRECONDITION (this machine lacks the ISA).
absl::StatusOr<const CpuKernel*> Find(std::string_view name);
// The kernel to use: the one named by the environment variable TRIBUTARY_FORCE_CPU_KERNEL if that
// is set, else `name`, else (name empty) the best. Errors as of Find.
absl::StatusOr<const CpuKernel*> Select(std::string_view name);

// The best DecodeAttentionArgs::prefetch_bytes on this machine, as measured per CPU family: some stream a run at full
// speed only if told where it goes on, others are slower for being told. num_rows: n_q * group_size.
uint32_t RunPrefetchBytes(KvStorage k_storage, uint32_t num_rows);

// The outer door of CpuKernel::fn: OK if the kernel can serve the call. INVALID_ARGUMENT: null or misaligned pointers,
// sizes outside the limits, a layout that MakeKvTileLayout did not make, a run that ends outside the `tile_bytes` bytes
// from args.tiles (where pieces lie is the caller's to know), a scale that is not finite. FAILED_PRECONDITION: a
// storage that this kernel does not serve. Costs O(num_pieces); hot paths check once what they can.
absl::Status ValidateDecodeAttention(const CpuKernel& kernel, const DecodeAttentionArgs& args, uint64_t tile_bytes);
// The part of it that holds for a whole shard.
absl::Status ValidateKernelShape(const CpuKernel& kernel, const KvTileLayout& layout, uint32_t group_size);

}  // namespace cpu_kernels

static_assert(static_cast<int>(KvStorage::kF32) == static_cast<int>(DType::kF32) &&
              static_cast<int>(KvStorage::kBf16) == static_cast<int>(DType::kBf16) &&
              static_cast<int>(KvStorage::kF16) == static_cast<int>(DType::kF16));

}  // namespace tributary

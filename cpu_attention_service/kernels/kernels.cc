#include "cpu_attention_service/kernels/kernels.h"

#include <cstdlib>

#include "base/cpu_features.h"
#include "fmt/format.h"

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>
#endif

namespace tributary::cpu_kernels {
namespace {

constexpr uint32_t kIsaAvx2Kernel = kIsaAvx2 | kIsaFma | kIsaF16c;
constexpr uint32_t kIsaAvx512Kernel = kIsaAvx512f | kIsaAvx512bw | kIsaAvx512dq | kIsaAvx512vl;

constexpr uint32_t kIsaAvx512Bf16Kernel = kIsaAvx512Kernel | kIsaAvx512bf16 | kIsaAvx512vnni | kIsaAvx512vbmi;

constexpr uint32_t kIsaAmxKernel = kIsaAvx512Bf16Kernel | kIsaAmxTile | kIsaAmxBf16;

constexpr uint32_t Bit(KvStorage storage) { return 1u << static_cast<uint32_t>(storage); }
constexpr uint32_t kFloats = Bit(KvStorage::kF32) | Bit(KvStorage::kBf16) | Bit(KvStorage::kF16);
constexpr uint32_t kAll = kFloats | Bit(KvStorage::kInt8) | Bit(KvStorage::kInt4) | Bit(KvStorage::kFp8E4m3);

constexpr CpuKernel kKernels[] = {
#if defined(__x86_64__)
    {"amx", kIsaAmxKernel, kAll, &DecodeAttentionAmx, &PackKvAvx512},
    {"avx512_bf16", kIsaAvx512Bf16Kernel, kAll, &DecodeAttentionAvx512Bf16, &PackKvAvx512},
    {"avx512", kIsaAvx512Kernel, kAll, &DecodeAttentionAvx512, &PackKvAvx512},
    {"avx2", kIsaAvx2Kernel, kAll, &DecodeAttentionAvx2, &PackKvPlain},
#endif
    {"scalar", 0, kAll, &DecodeAttentionScalar, &PackKvPlain},
};

#if defined(__x86_64__)
// AMX needs the leave of the operating system, once per process.
uint32_t DetectAmx() {
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  if (__get_cpuid_count(7, 0, &eax, &ebx, &ecx, &edx) == 0) return 0;
  constexpr uint32_t kAmxBf16Bit = 1u << 22, kAmxTileBit = 1u << 24, kAmxInt8Bit = 1u << 25;
  if ((edx & kAmxTileBit) == 0) return 0;
  constexpr int kRequestPermission = 0x1023;  // ARCH_REQ_XCOMP_PERM, since Linux 5.16
  constexpr int kTileData = 18;               // XFEATURE_XTILEDATA
  if (syscall(SYS_arch_prctl, kRequestPermission, kTileData) != 0) return 0;
  return kIsaAmxTile | ((edx & kAmxBf16Bit) != 0 ? kIsaAmxBf16 : 0u) | ((edx & kAmxInt8Bit) != 0 ? kIsaAmxInt8 : 0u);
}
#endif

uint32_t DetectIsa() {
  uint32_t isa = 0;
#if defined(__x86_64__)
  // These ask CPUID and the OS (XGETBV): a CPU whose OS does not save the wide registers does not
  // count.
  if (__builtin_cpu_supports("avx2")) isa |= kIsaAvx2;
  if (__builtin_cpu_supports("fma")) isa |= kIsaFma;
  if (HasF16c()) isa |= kIsaF16c;
  if (__builtin_cpu_supports("avx512f")) isa |= kIsaAvx512f;
  if (__builtin_cpu_supports("avx512bw")) isa |= kIsaAvx512bw;
  if (__builtin_cpu_supports("avx512dq")) isa |= kIsaAvx512dq;
  if (__builtin_cpu_supports("avx512vl")) isa |= kIsaAvx512vl;
  if (__builtin_cpu_supports("avx512bf16")) isa |= kIsaAvx512bf16;
  if (__builtin_cpu_supports("avx512vnni")) isa |= kIsaAvx512vnni;
  if (__builtin_cpu_supports("avx512vbmi")) isa |= kIsaAvx512vbmi;
  if (__builtin_cpu_supports("avx512vbmi2")) isa |= kIsaAvx512vbmi2;
  isa |= DetectAmx();
#endif
  return isa;
}

// Share of the read ceiling that bf16 reaches without and with: AMD Zen 5 0.6 and 0.94; Intel Sapphire Rapids 0.49 and
// 0.77. On AMD before Zen 5, streams are read fastest by the hardware alone.
bool RunsWantPrefetch() {
#if defined(__x86_64__)
  uint32_t eax = 0, ebx = 0, ecx = 0, edx = 0;
  __cpuid(0, eax, ebx, ecx, edx);
  const bool is_amd = ebx == signature_AMD_ebx && ecx == signature_AMD_ecx;
  __cpuid(1, eax, ebx, ecx, edx);
  const uint32_t family = ((eax >> 8) & 0xf) + ((eax >> 20) & 0xff);
  return !is_amd || family >= 0x1a;
#else
  return false;
#endif
}

std::string Names(bool supported_only) {
  std::string names;
  for (const CpuKernel& kernel : kKernels) {
    if (supported_only && !IsSupported(kernel)) continue;
    if (!names.empty()) names += ", ";
    names += kernel.name;
  }
  return names;
}

}  // namespace

uint32_t SupportedIsa() {
  static const uint32_t isa = DetectIsa();
  return isa;
}

uint32_t RunPrefetchBytes(KvStorage k_storage, uint32_t num_rows) {
  static const bool prefetches = RunsWantPrefetch();
  if (!prefetches) return 0;
  // The best of a sweep on AMD Zen 5, medians over places of the code in memory (docs/performance.md): the share of the
  // read ceiling varies by a tenth over 4 to 16 KiB. On Intel Sapphire Rapids it hardly matters.
  switch (k_storage) {
    case KvStorage::kInt8:
    case KvStorage::kInt4:
    case KvStorage::kFp8E4m3:
      return 12800;
    case KvStorage::kBf16:
      // From 8 rows on 13 to 17 KiB are alike, whether two slots of 4 KiB are read side by side
      // (prim_bf16_dot-inl.h) or one.
      return num_rows < 8 ? 9216 : 14336;
    default:
      return 9216;
  }
}

std::span<const CpuKernel> All() { return kKernels; }

const CpuKernel& Best() {
  for (const CpuKernel& kernel : kKernels) {
    if (IsSupported(kernel)) return kernel;
  }
  return kKernels[std::size(kKernels) - 1];
}

absl::StatusOr<const CpuKernel*> Find(std::string_view name) {
  for (const CpuKernel& kernel : kKernels) {
    if (name != kernel.name) continue;
    if (!IsSupported(kernel)) {
      return absl::FailedPreconditionError(
          fmt::format("this CPU cannot run the kernel '{}'; it can run: {}", name, Names(/*supported_only=*/true)));
    }
    return &kernel;
  }
  return absl::NotFoundError(
      fmt::format("there is no CPU kernel '{}'; choose one of: {}", name, Names(/*supported_only=*/false)));
}

absl::StatusOr<const CpuKernel*> Select(std::string_view name) {
  const char* forced = std::getenv("TRIBUTARY_FORCE_CPU_KERNEL");
  if (forced != nullptr && forced[0] != '\0') {
    auto kernel = Find(forced);
    if (kernel.ok()) return kernel;
    return absl::Status(kernel.status().code(),
                        fmt::format("TRIBUTARY_FORCE_CPU_KERNEL: {}", std::string(kernel.status().message())));
  }
  if (name.empty()) return &Best();
  return Find(name);
}

}  // namespace tributary::cpu_kernels

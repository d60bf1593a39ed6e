// The CPU kernel without a service around it: threads that call it on whole streams, one call each. What the service
// takes beyond this is its own: frames, items, merges, waiting.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "absl/status/statusor.h"
#include "attention/kv/kv_tile_layout.h"
#include "base/aligned_buffer.h"
#include "base/thread_pool.h"
#include "cpu_attention_service/kernels/kernels.h"
#include "kv_store/arena.h"

namespace tributary {

struct KernelAloneOptions {
  KvTileLayout layout;
  uint32_t group_size = 1;
  uint64_t tokens_per_stream = 0;
  uint64_t min_bytes = 512u << 20;  // of all streams: far more than the caches hold
  int num_threads = 1;
};

// Random KV; tiles repeat, addresses do not. Thread-compatible.
class KernelAlone {
 public:
  // RESOURCE_EXHAUSTED as of Arena.
  static absl::StatusOr<KernelAlone> Create(const KernelAloneOptions& options);

  // One pass over all streams. Microseconds per 10^6 bytes of tiles.
  double RunUsPerMb();

 private:
  KernelAlone(const KernelAloneOptions& options, Arena arena, size_t num_streams);
  void Fill();
  void RunShare(int thread_idx);

  KernelAloneOptions options_;
  const CpuKernel* kernel_ = &cpu_kernels::Best();
  Arena arena_;
  size_t num_streams_;
  std::unique_ptr<ThreadPool> pool_;
  AlignedBuffer<float> q_;
  AlignedBuffer<float> out_;  // [thread][group_size x head_dim, then group_size, to a multiple of 16]
};

}  // namespace tributary

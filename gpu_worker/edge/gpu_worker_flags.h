// Flags of tributary-gpu-worker.
#pragma once

#include <cstdint>
#include <string>

#include "process/server_flags.h"

namespace tributary {

struct GpuWorkerFlags {
  std::string model;
  std::string load_format = "safetensors";
  uint64_t dummy_seed = 1;
  std::string device = "host";
  std::string compute_dtype = "model";
  std::string weight_dtype = "stored";
  bool deterministic = false;
  std::string coordinator;
  std::string node_id;
  int threads = 0;  // 0 = one per core
  uint64_t resident_pool_bytes = uint64_t{256} << 20;
  uint32_t max_batch = 8;
  uint32_t max_prefill_tokens = 65536;
  uint32_t max_token_stripes = 8;
  DataPlaneFlags data_plane;
  uint32_t step_timeout_ms = 10000;
  uint32_t node_silence_timeout_ms = 3000;
  std::string trace_file;
};

// Adds the flags that a worker has beside those of every server (process/server_flags.h).
void AddGpuWorkerFlags(CLI::App& app, GpuWorkerFlags* flags);

}  // namespace tributary

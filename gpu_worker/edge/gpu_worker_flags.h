// Flags of tributary-gpu-worker.
#pragma once

#include <cstdint>
#include <string>

namespace tributary {

struct GpuWorkerFlags {
  std::string model;
  std::string load_format = "safetensors";
  uint64_t dummy_seed = 1;
  std::string device = "host";
  std::string compute_dtype = "model";
  bool deterministic = false;
  std::string coordinator;
  std::string node_id = "gpu-0";
  int threads = 0;  // 0 = one per core
  uint64_t resident_pool_bytes = uint64_t{256} << 20;
  uint32_t max_batch = 8;
  uint32_t max_prefill_tokens = 65536;
  uint32_t max_token_stripes = 8;
  uint32_t spin_us = 50;
  std::string transport_tls;
  std::string transport_net_devices;
  bool data_plane_mac = false;
  uint32_t step_timeout_ms = 10000;
  uint32_t node_silence_timeout_ms = 3000;
  std::string listen = "127.0.0.1:0";
  std::string metrics_listen;
  std::string port_file;
  std::string trace_file;
  uint32_t drain_timeout_s = 60;
  std::string log_level = "info";
};

// Returns the exit code if the process should end at once (--help, a wrong flag), else -1.
int ParseGpuWorkerFlags(int argc, char** argv, GpuWorkerFlags* flags);

}  // namespace tributary

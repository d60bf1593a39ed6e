// A policy's seat on the CUDA device: the kernels that it adds to a step's graph, and what it keeps for a sequence. The
// GPU's form of device/host/policy/host_facet.h: same moments, same names.
//
// A step is one graph, recorded beforehand, so a policy has one seat per device, whose nodes serve all rows of the
// batch with its facets; what differs between rows stands in their DecodeRowDesc. A batch without a policy's rows runs
// a graph without its nodes.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "cuda_runtime_api.h"
#include "gpu_worker/device/cuda/kernels/attend.h"
#include "gpu_worker/device/cuda/kernels/decode_rows.h"
#include "gpu_worker/device/cuda/kernels/launch.h"
#include "gpu_worker/device/cuda/runtime/cuda_context.h"
#include "gpu_worker/device/facet.h"
#include "policy/seat_table.h"

namespace tributary {

// Some tokens of a prompt that will never be resident, of one layer, in device memory.
struct CudaPrompt {
  uint32_t layer = 0;
  TokenRange tokens;
  const std::byte* k = nullptr;  // of the KV dtype, [token][num_kv_heads][head_dim]
  const std::byte* v = nullptr;
  cudaStream_t stream = nullptr;  // in which they are there
};

class CudaFacet : public PolicyFacet {
 public:
  // A row of the step that begins: sets `facet`, `facet_words` and, for a seat that wants them, `scores`. False: the
  // seat's nodes need not look at this row, whose words stay empty.
  virtual bool Describe(const DecodeRow& row, gpu::DecodeRowDesc* to) = 0;
  // A prompt's tokens lie in these slots of a layer from here on in `stream`. A step's nodes see for themselves where a
  // row appends.
  virtual void OnNewTokens(uint32_t layer, SlotRange slots, cudaStream_t stream) {}
  virtual std::unique_ptr<const SpillSections> OnPrompt(const CudaPrompt& prompt) { return nullptr; }
};

// What a facet may use, until it is destroyed.
struct CudaFacetMemory {
  std::span<std::byte* const> parts;  // device memory, as the seat asked for, 64-byte aligned, filled with anything
  const std::byte* region = nullptr;  // the sequence's resident KV (gpu::DecodeRowDesc)
};

// What a seat's nodes of one layer may read. All device memory.
struct CudaStepNodes {
  uint32_t kind = 0;  // DecodeRowDesc::facet_kind of this seat's rows
  const gpu::DecodeRowDesc* rows = nullptr;
  uint32_t num_rows = 0;
  uint32_t layer = 0;
  gpu::KvGeometry geometry;
  const float* q = nullptr;            // [num_rows][num_q_heads][head_dim], after RoPE
  const float* sink_logits = nullptr;  // [num_q_heads] of the layer, or null
  gpu::SplitRule rule;                 // of the resident attention
  gpu::AttendWorkspace workspace;      // after it: its out, maximum and sum, by split
  gpu::Launch launch;
};

class CudaSeat {
 public:
  // When the sections behind q are there, which the device then hands out together with q.
  enum class QueryReady : uint8_t { kWithQ, kAfterQuery, kAfterAttention };

  virtual ~CudaSeat() = default;
  // Why a sequence with these parameters cannot be served on this device; asked before its memory is reserved.
  virtual absl::Status Check(const FacetSpec& spec) const { return absl::OkStatus(); }
  virtual std::vector<PolicyBytes> Parts(const FacetSpec& spec) const = 0;
  // Null: the sequence has none.
  virtual std::unique_ptr<CudaFacet> MakeFacet(const FacetSpec& spec, const CudaFacetMemory& memory) = 0;

  // Nodes of one layer: behind QKV, when q is there and K and V are in the resident memory; and behind the resident
  // attention. They change nothing that others read. Recorded once per graph.
  virtual cudaError_t AddAfterQuery(const CudaStepNodes& nodes) { return cudaSuccess; }
  virtual cudaError_t AddAfterAttention(const CudaStepNodes& nodes) { return cudaSuccess; }
  // The attention leaves each row's scores in DecodeRowDesc::scores.
  virtual bool wants_scores() const { return false; }
  virtual QueryReady query_ready() const { return QueryReady::kWithQ; }
};

// Made once per device, with what the policy needs there for all sequences; null for a policy that keeps nothing on a
// device. Errors as of MakeCudaDevice().
using CudaSeatFactory = absl::StatusOr<std::unique_ptr<CudaSeat>> (*)(CudaContext* context);

// Each policy defines MakeNameCudaSeat() in its folder.
#define TRIBUTARY_POLICY(name, Name) \
  absl::StatusOr<std::unique_ptr<CudaSeat>> Make##Name##CudaSeat(CudaContext* context);
#include "policy/policies.def"

// The table is filled from policy/policies.def; a test adds its own before it makes a device.
SeatTable<CudaSeatFactory>& CudaSeats();

// The seats of one device.
class CudaDeviceSeats {
 public:
  static absl::StatusOr<std::unique_ptr<CudaDeviceSeats>> Make(CudaContext* context);

  // Finds the kind of a policy by its name; 0 if it keeps nothing on a device. UNIMPLEMENTED: it has no seat.
  absl::StatusOr<uint32_t> KindOf(std::string_view policy) const;
  // REQUIRES: 1 <= kind <= num_kinds().
  CudaSeat& seat(uint32_t kind) const { return *seats_[kind - 1]; }
  uint32_t num_kinds() const { return static_cast<uint32_t>(seats_.size()); }

 private:
  std::vector<std::pair<std::string, uint32_t>> kinds_;
  std::vector<std::unique_ptr<CudaSeat>> seats_;  // [kind - 1]
};

}  // namespace tributary

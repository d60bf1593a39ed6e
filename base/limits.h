// Every maximum of the house. A size from outside is checked against these before it is used.
#pragma once

#include <cstddef>
#include <cstdint>

namespace tributary::limits {

// Model geometry.
// Of attention scores: Gemma 2's is 50.
inline constexpr float kMinSoftCap = 1e-3f;
inline constexpr float kMaxSoftCap = 1e6f;
inline constexpr uint32_t kMaxLayers = 512;
inline constexpr uint32_t kMaxHeads = 1024;
inline constexpr uint32_t kMaxHeadDim = 256;
inline constexpr uint32_t kMaxGroupSize = 64;
inline constexpr uint32_t kMaxVocab = 1u << 20;
inline constexpr uint32_t kMaxHidden = 65536;

// One sequence. 2^31 tokens: positions fit in int32 of third-party kernels.
inline constexpr uint64_t kMaxContextTokens = uint64_t{1} << 31;
inline constexpr uint32_t kMaxShardsPerSequence = 256;
inline constexpr uint32_t kMaxTokenStripes = 64;  // slots that one row's merge reads
inline constexpr uint32_t kMaxBlockTokens = 1024;

// Token ids that a coordinator keeps of all its sequences together, to rebuild them: 1 GiB.
inline constexpr uint64_t kMaxTokenIds = uint64_t{1} << 28;

// Alternatives reported with each token: all of a byte vocabulary's, and 2 MiB for a step of kMaxBatch sequences.
inline constexpr uint32_t kMaxTopLogprobs = 1024;
inline constexpr uint32_t kMaxLogitBiases = 1024;  // of a request

// A request's attention policy (policy/parameter.h). A name or word is a few letters.
inline constexpr uint32_t kMaxPolicyParameters = 64;
inline constexpr size_t kMaxPolicyWordBytes = 64;
inline constexpr uint32_t kMaxPolicyHeads = 65536;

// Kept sequences: a day, and ends that are remembered to tell late comers why.
inline constexpr int64_t kMaxLeaseNs = int64_t{24 * 3600} * 1'000'000'000;
inline constexpr uint32_t kMaxRememberedLeases = 1024;

// One decode step.
inline constexpr uint32_t kMaxBatch = 256;
inline constexpr uint32_t kMaxStepsInFlight = 2;
// A step's deadline: before a GPU gives up waiting for its host (gpu_worker/device/cuda/runtime/cuda_gpu.h).
inline constexpr uint32_t kMaxStepTimeoutMs = 45'000;

// Frames. A query of 256 sequences x 64 heads x 128 f32 is 8 MiB; spills are cut to fit.
inline constexpr uint32_t kMaxFramePayloadBytes = 16u << 20;
inline constexpr uint32_t kMaxEntriesPerFrame = 4096;
inline constexpr uint32_t kMaxErrorTextBytes = 512;
inline constexpr uint32_t kMaxPolicySectionBytes = kMaxFramePayloadBytes / 2;  // of one entry or spill

// Text from outside.
inline constexpr size_t kMaxNodeIdBytes = 128;
inline constexpr size_t kMaxRequestIdBytes = 128;
inline constexpr size_t kMaxAddressBytes = 256;  // host:port
inline constexpr size_t kMaxModelNameBytes = 256;
inline constexpr size_t kMaxOutsideTextBytes = 1024;            // any other
inline constexpr size_t kMaxTransportAddressBytes = 64u << 10;  // of a data plane

// Nodes and workers of a cluster, those that have died and are not yet forgotten included.
inline constexpr size_t kMaxMembers = 1024;
// Generate calls open at a coordinator: more than it admits, so that admission is what refuses them.
inline constexpr size_t kMaxGenerateCalls = 16384;

// Connections of one server, and calls under way on each. A connection that says nothing costs some tens of kilobytes.
inline constexpr uint32_t kMaxServerConnections = 4096;
inline constexpr uint32_t kMaxStreamsPerConnection = 4096;

inline constexpr uint32_t kMaxPromptBytes = 64u << 20;

static_assert(kMaxBatch <= kMaxEntriesPerFrame);
static_assert(kMaxTokenStripes <= kMaxShardsPerSequence);

}  // namespace tributary::limits

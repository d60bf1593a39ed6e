// Every metric of every process, in one table: name, type, help, labels, buckets. docs/metrics.md
// is generated from it.
//
// Rules: prefix tributary_, base units in the name (_seconds, _bytes, _ratio), _total for counters;
// labels take few values, all known beforehand (never a request id). Only what is implemented
// stands here; add a constant AND its line in kAllMetrics, then `./dev docs`.
#pragma once

#include <array>
#include <span>
#include <string_view>

namespace tributary {

enum class MetricType { kCounter, kGauge, kHistogram };

// Which processes export a metric.
enum class MetricScope { kAll, kDataPlane, kCoordinator, kGpuWorker, kCpuAttention };

// Upper bounds of histogram buckets, ascending, without +Inf.
inline constexpr double kSecondsBuckets[] = {10e-6,  25e-6, 50e-6, 100e-6, 250e-6, 500e-6, 1e-3,
                                             2.5e-3, 5e-3,  10e-3, 25e-3,  50e-3,  0.1,    0.25,
                                             0.5,    1.0,   2.5,   5.0,    10.0,   30.0,   60.0};
inline constexpr double kShareBuckets[] = {0.1, 0.25, 0.5, 0.75, 0.9, 0.95, 0.98, 0.99, 0.995, 0.999};
inline constexpr double kErrorBuckets[] = {1e-5, 1e-4, 1e-3, 2.5e-3, 5e-3, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0};
inline constexpr double kCountBuckets[] = {1, 2, 4, 8, 16, 32, 64, 128, 256};

inline constexpr size_t kMaxMetricLabels = 4;

struct MetricSpec {
  std::string_view name;
  MetricType type;
  MetricScope scope;
  std::string_view help;
  std::array<std::string_view, kMaxMetricLabels> label_names = {};  // unused ones are empty, at the end
  std::span<const double> buckets = {};                             // histograms only

  constexpr size_t num_labels() const {
    size_t count = 0;
    while (count < kMaxMetricLabels && !label_names[count].empty()) ++count;
    return count;
  }
};

namespace metrics {

// ---- every process ----
inline constexpr MetricSpec kBuildInfo{"tributary_build_info",
                                       MetricType::kGauge,
                                       MetricScope::kAll,
                                       "Always 1; the labels say what runs.",
                                       {"version", "revision", "ucx_version", "grpc_version"}};
inline constexpr MetricSpec kServiceState{
    "tributary_service_state",
    MetricType::kGauge,
    MetricScope::kAll,
    "1 for the state the process is in (starting, serving, draining), 0 for the others.",
    {"state"}};
inline constexpr MetricSpec kProcessCpuSeconds{"process_cpu_seconds_total", MetricType::kCounter, MetricScope::kAll,
                                               "User and system CPU time spent."};
inline constexpr MetricSpec kProcessResidentMemory{"process_resident_memory_bytes", MetricType::kGauge,
                                                   MetricScope::kAll, "Resident memory."};
inline constexpr MetricSpec kProcessOpenFds{"process_open_fds", MetricType::kGauge, MetricScope::kAll,
                                            "Open file descriptors."};
inline constexpr MetricSpec kProcessMaxFds{"process_max_fds", MetricType::kGauge, MetricScope::kAll,
                                           "Most file descriptors that may be open."};
inline constexpr MetricSpec kProcessStartTime{"process_start_time_seconds", MetricType::kGauge, MetricScope::kAll,
                                              "Start of the process in seconds since 1970."};
inline constexpr MetricSpec kRpcConnections{
    "tributary_rpc_connections_total",
    MetricType::kCounter,
    MetricScope::kAll,
    "Connections to the gRPC port: accepted, or refused for want of file descriptors.",
    {"outcome"}};
inline constexpr MetricSpec kRpcRefusedCalls{
    "tributary_rpc_refused_calls_total",
    MetricType::kCounter,
    MetricScope::kAll,
    "Calls refused for who made them: he did not prove who he is (unauthenticated), or may not (permission_denied).",
    {"method", "reason"}};
inline constexpr MetricSpec kRpcTlsHandshakes{"tributary_rpc_tls_handshakes_total", MetricType::kCounter,
                                              MetricScope::kAll,
                                              "Connections to the gRPC port whose client showed a certificate of "
                                              "--tls-ca; others of those accepted were closed."};
inline constexpr MetricSpec kTlsNotAfter{"tributary_tls_certificate_not_after_seconds", MetricType::kGauge,
                                         MetricScope::kAll,
                                         "When the certificate of --tls-cert expires, in seconds since 1970."};

// ---- processes with a data plane: GPU worker and CPU attention service ----
inline constexpr MetricSpec kTransportBytes{"tributary_transport_bytes_total",
                                            MetricType::kCounter,
                                            MetricScope::kDataPlane,
                                            "Frame bytes, headers included; direction is sent or received.",
                                            {"direction"}};
inline constexpr MetricSpec kTransportFrames{"tributary_transport_frames_total",
                                             MetricType::kCounter,
                                             MetricScope::kDataPlane,
                                             "Frames; direction is sent or received.",
                                             {"direction"}};
inline constexpr MetricSpec kTransportEndpointErrors{"tributary_transport_endpoint_errors_total", MetricType::kCounter,
                                                     MetricScope::kDataPlane, "Peers that the transport gave up."};
inline constexpr MetricSpec kFramesRejected{
    "tributary_frames_rejected_total",
    MetricType::kCounter,
    MetricScope::kDataPlane,
    "Received frames that were refused; reason is a FrameError name (wire/frame.h).",
    {"reason"}};

// ---- coordinator ----
inline constexpr MetricSpec kRequests{"tributary_requests_total",
                                      MetricType::kCounter,
                                      MetricScope::kCoordinator,
                                      "Requests that ended; outcome is ok, cancelled, rejected or failed.",
                                      {"outcome"}};
inline constexpr MetricSpec kRequestDuration{"tributary_request_duration_seconds",
                                             MetricType::kHistogram,
                                             MetricScope::kCoordinator,
                                             "From arrival of a request to its last event.",
                                             {},
                                             kSecondsBuckets};
inline constexpr MetricSpec kRequestsRunning{"tributary_requests_running", MetricType::kGauge,
                                             MetricScope::kCoordinator, "Requests placed on a worker."};
inline constexpr MetricSpec kRequestsWaiting{"tributary_requests_waiting", MetricType::kGauge,
                                             MetricScope::kCoordinator, "Requests that wait for a place."};
inline constexpr MetricSpec kRequestsStalled{
    "tributary_requests_stalled", MetricType::kGauge, MetricScope::kCoordinator,
    "Of tributary_requests_running: those that stand still because a node or worker is silent or gone."};
inline constexpr MetricSpec kAdmissionRejected{
    "tributary_admission_rejected_total",
    MetricType::kCounter,
    MetricScope::kCoordinator,
    "Requests refused before placement; reason is invalid, exhausted, unavailable or draining.",
    {"reason"}};
inline constexpr MetricSpec kTimeToFirstToken{"tributary_time_to_first_token_seconds",
                                              MetricType::kHistogram,
                                              MetricScope::kCoordinator,
                                              "From arrival of a request to its first token.",
                                              {},
                                              kSecondsBuckets};
inline constexpr MetricSpec kInterTokenLatency{"tributary_inter_token_latency_seconds",
                                               MetricType::kHistogram,
                                               MetricScope::kCoordinator,
                                               "Between two tokens of one request.",
                                               {},
                                               kSecondsBuckets};
inline constexpr MetricSpec kPromptTokens{"tributary_prompt_tokens_total", MetricType::kCounter,
                                          MetricScope::kCoordinator, "Prompt tokens of admitted requests."};
inline constexpr MetricSpec kGeneratedTokens{"tributary_generated_tokens_total", MetricType::kCounter,
                                             MetricScope::kCoordinator, "Tokens handed to clients."};
inline constexpr MetricSpec kMembers{
    "tributary_members",
    MetricType::kGauge,
    MetricScope::kCoordinator,
    "Known nodes; role is gpu_worker or cpu_attention, state is alive, suspect, dead or draining.",
    {"role", "state"}};
inline constexpr MetricSpec kMembershipEpoch{"tributary_membership_epoch", MetricType::kGauge,
                                             MetricScope::kCoordinator, "Rises with each change of membership."};
inline constexpr MetricSpec kCoordinatorShards{"tributary_shards", MetricType::kGauge, MetricScope::kCoordinator,
                                               "Shards of live sequences, over all nodes."};

inline constexpr MetricSpec kKeptSequences{
    "tributary_kept_sequences", MetricType::kGauge, MetricScope::kCoordinator,
    "Sequences that are kept between two turns; not in tributary_requests_running."};
inline constexpr MetricSpec kKeptBytes{"tributary_kept_reserved_bytes",
                                       MetricType::kGauge,
                                       MetricScope::kCoordinator,
                                       "KV memory reserved for them; role is where.",
                                       {"role"}};
inline constexpr MetricSpec kLeasesEnded{
    "tributary_leases_ended_total",
    MetricType::kCounter,
    MetricScope::kCoordinator,
    "Kept sequences that are not kept any more; end is continued, expired, cancelled, lost (a node "
    "or worker) or drained.",
    {"end"}};
inline constexpr MetricSpec kSequenceRebuilds{
    "tributary_sequence_rebuilds_total",
    MetricType::kCounter,
    MetricScope::kCoordinator,
    "Sequences of which KV was lost with a node or a worker (cause), when they went on or ended; result is ok, failed, "
    "cancelled or refused (they may not be rebuilt, or not again).",
    {"cause", "result"}};

// ---- GPU worker ----
inline constexpr MetricSpec kDecodeStepDuration{"tributary_decode_step_duration_seconds",
                                                MetricType::kHistogram,
                                                MetricScope::kGpuWorker,
                                                "One decode step of the whole batch.",
                                                {},
                                                kSecondsBuckets};
inline constexpr MetricSpec kDecodePhaseDuration{
    "tributary_decode_phase_duration_seconds",
    MetricType::kHistogram,
    MetricScope::kGpuWorker,
    "One phase of a decode step, summed over its layers; phase is qkv, query_send, "
    "local_attention, remote_wait, merge_mlp or sample.",
    {"phase"},
    kSecondsBuckets};
inline constexpr MetricSpec kRemoteExposed{"tributary_remote_attention_exposed_seconds",
                                           MetricType::kHistogram,
                                           MetricScope::kGpuWorker,
                                           "Wait for partials per step that local attention did not hide.",
                                           {},
                                           kSecondsBuckets};
inline constexpr MetricSpec kRemoteAttention{"tributary_remote_attention_seconds",
                                             MetricType::kHistogram,
                                             MetricScope::kGpuWorker,
                                             "Per layer, from sending the queries to the last partial.",
                                             {},
                                             kSecondsBuckets};
inline constexpr MetricSpec kGpuBusy{"tributary_gpu_busy_seconds_total", MetricType::kCounter, MetricScope::kGpuWorker,
                                     "GPU time of decode steps without waits for partials (CUDA "
                                     "device only)."};
inline constexpr MetricSpec kGpuRemoteWait{
    "tributary_gpu_remote_wait_seconds_total", MetricType::kCounter, MetricScope::kGpuWorker,
    "GPU time of decode steps in which it had nothing to do but wait for partials (CUDA device "
    "only)."};
inline constexpr MetricSpec kGpuIdle{
    "tributary_gpu_idle_ratio", MetricType::kGauge, MetricScope::kGpuWorker,
    "Share of the time from the last decode step's end to this one's in which the GPU ran no "
    "decode "
    "kernel: it waited for partials or for the next step (CUDA device only)."};
inline constexpr MetricSpec kPartials{"tributary_partials_total",
                                      MetricType::kCounter,
                                      MetricScope::kGpuWorker,
                                      "Partials expected or received; outcome is ok, late, invalid or missing.",
                                      {"outcome"}};
inline constexpr MetricSpec kBatchSize{
    "tributary_batch_size", MetricType::kHistogram, MetricScope::kGpuWorker, "Sequences per decode step.", {},
    kCountBuckets};
inline constexpr MetricSpec kPrefillDuration{"tributary_prefill_duration_seconds",
                                             MetricType::kHistogram,
                                             MetricScope::kGpuWorker,
                                             "Prefill of one prompt, waits included.",
                                             {},
                                             kSecondsBuckets};
inline constexpr MetricSpec kSequences{"tributary_sequences", MetricType::kGauge, MetricScope::kGpuWorker,
                                       "Sequences that the worker holds."};
inline constexpr MetricSpec kIdleSequences{"tributary_sequences_idle", MetricType::kGauge, MetricScope::kGpuWorker,
                                           "Of tributary_sequences: those that are kept between two turns."};
inline constexpr MetricSpec kStalledSequences{
    "tributary_sequences_stalled", MetricType::kGauge, MetricScope::kGpuWorker,
    "Of tributary_sequences: those that are parked, because a node that holds their KV is silent."};
inline constexpr MetricSpec kStalls{"tributary_sequence_stalls_total", MetricType::kCounter, MetricScope::kGpuWorker,
                                    "How often a sequence was parked because a node was silent."};
inline constexpr MetricSpec kAppendedTokens{
    "tributary_appended_tokens_total", MetricType::kCounter, MetricScope::kGpuWorker,
    "Tokens appended to kept sequences, the last one of the answer before included."};
inline constexpr MetricSpec kSequencesFailed{
    "tributary_sequences_failed_total",
    MetricType::kCounter,
    MetricScope::kGpuWorker,
    "Sequences that ended with an error; reason is the status code in lower case.",
    {"reason"}};
inline constexpr MetricSpec kResidentPoolCapacity{"tributary_resident_pool_capacity_bytes", MetricType::kGauge,
                                                  MetricScope::kGpuWorker, "Size of the pool for sinks and windows."};
inline constexpr MetricSpec kResidentPoolUsed{"tributary_resident_pool_used_bytes", MetricType::kGauge,
                                              MetricScope::kGpuWorker, "Reserved by live sequences."};
inline constexpr MetricSpec kGpuPolicyBytes{
    "tributary_gpu_policy_bytes",
    MetricType::kGauge,
    MetricScope::kGpuWorker,
    "Of tributary_resident_pool_used_bytes: what attention policies keep on the device, by what it is.",
    {"kind"}};
inline constexpr MetricSpec kSpillQueueBlocks{
    "tributary_spill_queue_blocks", MetricType::kGauge, MetricScope::kGpuWorker,
    "Blocks that left a window and are not yet acknowledged by every shard and layer."};
inline constexpr MetricSpec kSpillBytes{"tributary_spill_bytes_total", MetricType::kCounter, MetricScope::kGpuWorker,
                                        "KV bytes sent to shards, in prefill and decode."};
inline constexpr MetricSpec kSpillAcks{"tributary_spill_acks_total",
                                       MetricType::kCounter,
                                       MetricScope::kGpuWorker,
                                       "Acknowledgements of spill frames; status is ok or a FrameError name.",
                                       {"status"}};
inline constexpr MetricSpec kSparseCoveredTokens{
    "tributary_sparse_covered_tokens_total", MetricType::kCounter, MetricScope::kGpuWorker,
    "Remote tokens that decode steps of sequences with a sparse policy could have read."};
inline constexpr MetricSpec kSparseAttendedTokens{"tributary_sparse_attended_tokens_total", MetricType::kCounter,
                                                  MetricScope::kGpuWorker,
                                                  "Of these, what was read: mean over layers and KV heads."};
inline constexpr MetricSpec kKeptMassMean{"tributary_kept_mass_mean_ratio",
                                          MetricType::kHistogram,
                                          MetricScope::kGpuWorker,
                                          "Share of the remote softmax mass that a measured step "
                                          "of a sequence kept: mean over layers and "
                                          "query heads.",
                                          {},
                                          kShareBuckets};
inline constexpr MetricSpec kKeptMassMin{"tributary_kept_mass_min_ratio",
                                         MetricType::kHistogram,
                                         MetricScope::kGpuWorker,
                                         "The same of the layer and query head that kept least.",
                                         {},
                                         kShareBuckets};
inline constexpr MetricSpec kOutputError{
    "tributary_attention_output_error",
    MetricType::kHistogram,
    MetricScope::kGpuWorker,
    "How wrong leaving tokens out made the attention's merged output: its distance to the output over everything, over "
    "the largest norm of the layer's query heads; of each layer and query head of a measured step of a sequence.",
    {},
    kErrorBuckets};

// ---- CPU attention service ----
inline constexpr MetricSpec kAttentionRequests{"tributary_attention_requests_total",
                                               MetricType::kCounter,
                                               MetricScope::kCpuAttention,
                                               "Query entries answered; outcome is ok or a FrameError name.",
                                               {"outcome"}};
inline constexpr MetricSpec kAttentionQueueWait{"tributary_attention_queue_wait_seconds",
                                                MetricType::kHistogram,
                                                MetricScope::kCpuAttention,
                                                "From receipt of a query frame to the start of its work.",
                                                {},
                                                kSecondsBuckets};
inline constexpr MetricSpec kAttentionCompute{"tributary_attention_compute_seconds",
                                              MetricType::kHistogram,
                                              MetricScope::kCpuAttention,
                                              "Attention over the shards of one query frame, merges included.",
                                              {},
                                              kSecondsBuckets};
inline constexpr MetricSpec kAttentionBatchQueries{"tributary_attention_batch_queries",
                                                   MetricType::kHistogram,
                                                   MetricScope::kCpuAttention,
                                                   "Entries per query frame.",
                                                   {},
                                                   kCountBuckets};
inline constexpr MetricSpec kAttendedTokens{
    "tributary_attention_attended_tokens_total", MetricType::kCounter, MetricScope::kCpuAttention,
    "Tokens that answers rest on, once per query entry and layer; the mean over the KV heads."};
inline constexpr MetricSpec kCoveredTokens{
    "tributary_attention_covered_tokens_total", MetricType::kCounter, MetricScope::kCpuAttention,
    "Visible tokens that answers are for; those attended to are a part of them."};
inline constexpr MetricSpec kQuantisedTokens{"tributary_attention_quantised_tokens_total", MetricType::kCounter,
                                             MetricScope::kCpuAttention,
                                             "Those of them whose K or V the shard stores quantised."};
inline constexpr MetricSpec kKeptMass{
    "tributary_attention_kept_mass",
    MetricType::kHistogram,
    MetricScope::kCpuAttention,
    "Share of a shard's softmax that a selection kept, per query head, on sampled steps.",
    {},
    kShareBuckets};
inline constexpr MetricSpec kFallbackHeads{
    "tributary_attention_fallback_heads", MetricType::kGauge, MetricScope::kCpuAttention,
    "KV heads, over all layers, that read everything since their last sample kept too little."};
inline constexpr MetricSpec kSelectionDuration{
    "tributary_attention_selection_seconds",
    MetricType::kHistogram,
    MetricScope::kCpuAttention,
    "Choosing and copying the kept tokens of the blocks that a query is the first to see, all KV "
    "heads of a layer; before the answer.",
    {},
    kSecondsBuckets};
inline constexpr MetricSpec kReselectionDuration{
    "tributary_attention_reselection_seconds",
    MetricType::kHistogram,
    MetricScope::kCpuAttention,
    "Choosing anew, all KV heads of a layer: weights of a dense query, selection, copies; after "
    "the answer.",
    {},
    kSecondsBuckets};
inline constexpr MetricSpec kAppendWeightsDuration{
    "tributary_attention_append_weights_seconds",
    MetricType::kHistogram,
    MetricScope::kCpuAttention,
    "Weights of a part of an appended prompt, all KV heads of a layer; after the answer. The last "
    "part chooses anew.",
    {},
    kSecondsBuckets};
inline constexpr MetricSpec kPolicyUpdateDuration{
    "tributary_attention_policy_update_seconds",
    MetricType::kHistogram,
    MetricScope::kCpuAttention,
    "Weights of the tokens that a query read, for policies that keep averages of them; after the answer.",
    {},
    kSecondsBuckets};
inline constexpr MetricSpec kRowCacheBytes{
    "tributary_kv_row_cache_bytes", MetricType::kGauge, MetricScope::kCpuAttention,
    "Filled of the caches of chosen rows; what is reserved for them is part of tributary_kv_used_bytes."};
inline constexpr MetricSpec kKvCapacity{"tributary_kv_capacity_bytes", MetricType::kGauge, MetricScope::kCpuAttention,
                                        "Size of the KV pool."};
inline constexpr MetricSpec kKvUsed{"tributary_kv_used_bytes", MetricType::kGauge, MetricScope::kCpuAttention,
                                    "Reserved by open shards."};
inline constexpr MetricSpec kKvShards{"tributary_kv_shards", MetricType::kGauge, MetricScope::kCpuAttention,
                                      "Open shards."};
inline constexpr MetricSpec kKvIngestBytes{"tributary_kv_ingest_bytes_total", MetricType::kCounter,
                                           MetricScope::kCpuAttention, "KV bytes received in spill frames and stored."};
inline constexpr MetricSpec kKvCheckedBytes{
    "tributary_kv_checked_bytes_total",
    MetricType::kCounter,
    MetricScope::kCpuAttention,
    "Stored KV compared with its CRCs; reason is read (before it was read for the first time) or scrub.",
    {"reason"}};
inline constexpr MetricSpec kKvCorruptTiles{
    "tributary_kv_corrupt_tiles_total", MetricType::kCounter, MetricScope::kCpuAttention,
    "Tiles found that no longer have the bytes that were stored: queries that read them are refused, the log names "
    "them. Anything but 0 asks for a look at the host's memory."};
inline constexpr MetricSpec kKvScrubPasses{"tributary_kv_scrub_passes_total", MetricType::kCounter,
                                           MetricScope::kCpuAttention, "Times that the scrub has read all stored KV."};
inline constexpr MetricSpec kKvScrubPass{"tributary_kv_scrub_pass_ratio", MetricType::kGauge,
                                         MetricScope::kCpuAttention,
                                         "Share of the shards' streams that this pass of the scrub is done with."};
inline constexpr MetricSpec kSessions{"tributary_sessions", MetricType::kGauge, MetricScope::kCpuAttention,
                                      "GPU workers connected to this node."};

}  // namespace metrics

// The table, in the order of docs/metrics.md. tools/tidy.py checks that no constant above is
// forgotten.
inline constexpr const MetricSpec* kAllMetrics[] = {
    &metrics::kBuildInfo,
    &metrics::kServiceState,
    &metrics::kProcessCpuSeconds,
    &metrics::kProcessResidentMemory,
    &metrics::kProcessOpenFds,
    &metrics::kProcessMaxFds,
    &metrics::kProcessStartTime,
    &metrics::kRpcConnections,
    &metrics::kRpcRefusedCalls,
    &metrics::kRpcTlsHandshakes,
    &metrics::kTlsNotAfter,
    &metrics::kTransportBytes,
    &metrics::kTransportFrames,
    &metrics::kTransportEndpointErrors,
    &metrics::kFramesRejected,
    &metrics::kRequests,
    &metrics::kRequestDuration,
    &metrics::kRequestsRunning,
    &metrics::kRequestsWaiting,
    &metrics::kRequestsStalled,
    &metrics::kAdmissionRejected,
    &metrics::kTimeToFirstToken,
    &metrics::kInterTokenLatency,
    &metrics::kPromptTokens,
    &metrics::kGeneratedTokens,
    &metrics::kMembers,
    &metrics::kMembershipEpoch,
    &metrics::kCoordinatorShards,
    &metrics::kKeptSequences,
    &metrics::kKeptBytes,
    &metrics::kLeasesEnded,
    &metrics::kSequenceRebuilds,
    &metrics::kDecodeStepDuration,
    &metrics::kDecodePhaseDuration,
    &metrics::kRemoteExposed,
    &metrics::kRemoteAttention,
    &metrics::kGpuBusy,
    &metrics::kGpuRemoteWait,
    &metrics::kGpuIdle,
    &metrics::kPartials,
    &metrics::kBatchSize,
    &metrics::kPrefillDuration,
    &metrics::kSequences,
    &metrics::kIdleSequences,
    &metrics::kStalledSequences,
    &metrics::kStalls,
    &metrics::kAppendedTokens,
    &metrics::kSequencesFailed,
    &metrics::kResidentPoolCapacity,
    &metrics::kResidentPoolUsed,
    &metrics::kGpuPolicyBytes,
    &metrics::kSpillQueueBlocks,
    &metrics::kSpillBytes,
    &metrics::kSpillAcks,
    &metrics::kSparseCoveredTokens,
    &metrics::kSparseAttendedTokens,
    &metrics::kKeptMassMean,
    &metrics::kKeptMassMin,
    &metrics::kOutputError,
    &metrics::kAttentionRequests,
    &metrics::kAttentionQueueWait,
    &metrics::kAttentionCompute,
    &metrics::kAttentionBatchQueries,
    &metrics::kAttendedTokens,
    &metrics::kCoveredTokens,
    &metrics::kQuantisedTokens,
    &metrics::kKeptMass,
    &metrics::kFallbackHeads,
    &metrics::kSelectionDuration,
    &metrics::kReselectionDuration,
    &metrics::kAppendWeightsDuration,
    &metrics::kPolicyUpdateDuration,
    &metrics::kRowCacheBytes,
    &metrics::kKvCapacity,
    &metrics::kKvUsed,
    &metrics::kKvShards,
    &metrics::kKvIngestBytes,
    &metrics::kKvCheckedBytes,
    &metrics::kKvCorruptTiles,
    &metrics::kKvScrubPasses,
    &metrics::kKvScrubPass,
    &metrics::kSessions,
};

}  // namespace tributary

#include "cpu_attention_service/node/attention_server.h"

#include <functional>
#include <optional>
#include <utility>

#include "base/limits.h"
#include "base/log.h"
#include "base/patient_clock.h"
#include "base/status.h"
#include "cpu_attention_service/executor/shard_executor.h"
#include "cpu_attention_service/node/answer_sender.h"
#include "cpu_attention_service/node/attention_metrics.h"
#include "cpu_attention_service/node/attention_step.h"
#include "cpu_attention_service/node/frame_queue.h"
#include "cpu_attention_service/node/session_table.h"
#include "cpu_attention_service/node/shard_registry.h"
#include "cpu_attention_service/node/store_frames.h"
#include "cpu_attention_service/node/stored_check.h"
#include "fmt/format.h"
#include "wire/frame.h"
#include "wire/frame_builder.h"

namespace tributary {
namespace {

constexpr int64_t kHousekeepingIntervalNs = 100 * kNsPerMs;
// Between two looks at the sessions more than this is a time in which the node itself stood still.
constexpr int64_t kMaxSessionGapNs = kNsPerS;

// While an attention step is in work, the data plane is polled as long as less than this waits: then its senders wait,
// as they do when nobody polls.
constexpr size_t kMaxQueuedBytes = 64u << 20;

ShardExecutorOptions ExecutorOptions(const AttentionServerOptions& options, const CpuKernel* kernel,
                                     std::function<void()> between_items) {
  ShardExecutorOptions executor;
  executor.num_threads = options.num_threads;
  executor.cpus = options.cpus;
  executor.spin_ns = options.helper_spin_ns;
  executor.kernel = kernel;
  executor.between_items = std::move(between_items);
  return executor;
}

ReadRequest RequestOf(const NodeShard& shard, const QueryView& view, const QueryEntry& query, uint32_t layer) {
  const TokenStripe& stripe = shard.kv->spec().stripe;
  ReadRequest request;
  request.layer = layer;
  request.local = {stripe.LocalIndex(query.visible_begin), stripe.LocalIndex(query.visible_end)};
  request.n_q = query.n_q;
  request.flags = query.flags;
  request.softmax_scale = view.body().softmax_scale;
  request.soft_cap = view.body().soft_cap;
  request.q = view.q(query);
  request.section = view.policy(query);
  request.dense_heads = view.dense_heads(query);
  return request;
}

// Whether the query names heads of the shard, whether its policy takes the query's section, and how many bytes it
// answers with.
FrameError CheckRequest(const NodeShard& shard, const ReadRequest& request, PartialEntry* entry) {
  const FrameError heads = ShardFallback::CheckDenseHeads(request, shard.kv->spec().num_kv_heads_held());
  if (heads != FrameError::kOk) return heads;
  if (shard.policy == nullptr) return request.section.empty() ? FrameError::kOk : FrameError::kMalformed;
  const FrameError error = shard.policy->CheckQuery(request);
  if (error == FrameError::kOk) entry->policy_bytes = shard.policy->PartialSectionBytes(request);
  return error;
}

}  // namespace

struct AttentionServer::Impl {
  Impl(const AttentionServerOptions& server_options, std::unique_ptr<ShardStore> store, const CpuKernel* kernel,
       DataPlane* plane, const Clock* time, AttentionMetrics* handles)
      : options(server_options),
        data_plane(plane),
        clock(time),
        metrics(handles != nullptr ? handles : &no_metrics),
        shards(std::move(store)),
        sessions(server_options.data_plane_mac, server_options.ids),
        sender(plane, &sessions),
        executor(ExecutorOptions(server_options, kernel, [this] { PollWhileAttending(); })),
        stored_check(&executor, [this] { PollWhileAttending(); }),
        scrub(&shards.store(), server_options.scrub),
        step(&executor, time, metrics) {
    entries.reserve(limits::kMaxEntriesPerFrame);
    query_shards.reserve(limits::kMaxEntriesPerFrame);
  }

  void PollWhileAttending();
  int RunQueue();
  void RunQueued(const QueuedFrame& frame);
  void OnQuery(Session& session, const FrameHeader& header, std::span<const std::byte> payload, int64_t received_ns);
  void CheckEntries(const QueryView& view, uint32_t layer);
  NodeShard* FindQueried(const QueryEntry& query, uint32_t layer, uint32_t head_dim, PartialEntry* entry,
                         FrameError* error);
  PartialEntry CheckEntry(const QueryView& view, const QueryEntry& query, uint32_t layer, NodeShard** shard);
  void Attend(const QueryView& view, uint32_t layer, PartialPayloadWriter& writer, int64_t received_ns);
  void SetAttended(PartialPayloadWriter& writer);
  void OnSpill(Session& session, const FrameHeader& header, std::span<const std::byte> payload);
  std::optional<FrameError> StoreSpill(const SpillView& spill, uint32_t layer, uint64_t* stored_tokens);
  void OnHeartbeat(Session& session, const FrameHeader& header, std::span<const std::byte> payload);

  // Counts the frame as refused and, if it can be answered, says so to the sender: why, or the error's name.
  void Refuse(Session* session, const FrameHeader& header, FrameError error, std::string_view why = "");
  // Whether the session's worker may name the shard. If not, the frame is refused as a whole.
  bool IsGranted(Session& session, const FrameHeader& header, ShardId shard);
  void RemoveSession(const Session& session);
  void Housekeeping();
  void SetKvGauges();
  void SetPolicyGauges();
  void SetCheckMetrics();

  const AttentionServerOptions options;
  DataPlane* const data_plane;
  const Clock* const clock;
  AttentionMetrics no_metrics;
  AttentionMetrics* const metrics;
  ShardRegistry shards;
  SessionTable sessions;
  AnswerSender sender;
  ShardExecutor executor;
  StoredCheck stored_check;
  ShardScrub scrub;
  AttentionStep step;
  std::vector<PeerId> lost_peers;  // to be forgotten outside the data plane's handlers
  int64_t next_housekeeping_ns = 0;
  PatientClock session_time{kMaxSessionGapNs};
  FrameHandler* handler = nullptr;  // the server
  FrameQueue waiting;
  bool attending = false;

  // Of the query frame in work; members so that their memory is reused.
  std::vector<PartialEntry> entries;
  std::vector<NodeShard*> query_shards;
};

absl::StatusOr<std::unique_ptr<AttentionServer>> AttentionServer::Create(const AttentionServerOptions& options,
                                                                         DataPlane* data_plane, const Clock* clock,
                                                                         AttentionMetrics* metrics) {
  constexpr int kMaxThreads = 1024;
  if (options.num_threads < 1 || options.num_threads > kMaxThreads) {
    return absl::InvalidArgumentError(
        fmt::format("num_threads is {}; it must be in [1, {}]", options.num_threads, kMaxThreads));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(const CpuKernel* kernel, cpu_kernels::Select(options.kernel));
  TRIBUTARY_ASSIGN_OR_RETURN(
      std::unique_ptr<ShardStore> store,
      ShardStore::Create({.arena = options.arena, .extent_bytes = options.extent_bytes, .pack = kernel->pack}));
  auto impl = std::make_unique<Impl>(options, std::move(store), kernel, data_plane, clock, metrics);
  impl->metrics->kv_capacity_bytes.Set(static_cast<double>(impl->shards.store().capacity_bytes()));
  return std::unique_ptr<AttentionServer>(new AttentionServer(std::move(impl)));
}

AttentionServer::AttentionServer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) { impl_->handler = this; }
AttentionServer::~AttentionServer() = default;

// ---- control ----

absl::StatusOr<SessionGrant> AttentionServer::OpenSession(const WorkerIdentity& worker,
                                                          const std::string& worker_address) {
  // First the old one: a data plane may give the same peer for the same address.
  if (Session* old = impl_->sessions.FindByWorker(worker.id); old != nullptr) {
    CloseSession(old->id);
  }
  if (impl_->sessions.size() >= SessionTable::kMaxSessions) {
    return absl::ResourceExhaustedError(fmt::format("node {} has {} sessions, its maximum; disconnect a worker first",
                                                    impl_->options.node_id, SessionTable::kMaxSessions));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(const PeerId peer, impl_->data_plane->Connect(worker_address));
  const Session& session = impl_->sessions.Add(worker, peer, impl_->session_time.now_ns());
  impl_->metrics->sessions.Set(static_cast<double>(impl_->sessions.size()));
  LOG_INFO("worker {} connected, {} sessions", worker.id, impl_->sessions.size());
  return SessionGrant{session.id, session.keys, Epoch(impl_->options.incarnation)};
}

void AttentionServer::CloseSession(SessionId id) {
  const Session* session = impl_->sessions.Find(id);
  if (session == nullptr) return;
  LOG_INFO("worker {} disconnected", session->worker.id);
  impl_->data_plane->Disconnect(session->peer);
  impl_->RemoveSession(*session);
}

absl::StatusOr<uint64_t> AttentionServer::OpenShard(const ShardSpec& spec, const WorkerIdentity& worker) {
  TRIBUTARY_RETURN_IF_ERROR(Validate(spec));
  if (const absl::Status served =
          cpu_kernels::ValidateKernelShape(impl_->executor.kernel(), TileLayoutOf(spec), spec.model.group_size());
      !served.ok()) {
    return absl::Status(served.code(), fmt::format("shard {} is not served by node {}: {}", spec.shard_id.value,
                                                   impl_->options.node_id, std::string(served.message())));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(const uint64_t reserved_bytes, impl_->shards.Open(spec, worker));
  impl_->SetKvGauges();
  return reserved_bytes;
}

absl::Status AttentionServer::CloseShard(ShardId shard, Epoch epoch) {
  TRIBUTARY_RETURN_IF_ERROR(impl_->shards.Close(shard, epoch));
  impl_->SetKvGauges();
  return absl::OkStatus();
}

bool AttentionServer::DropOrphan(ShardId shard) {
  const bool dropped = impl_->shards.Drop(shard);
  impl_->SetKvGauges();
  return dropped;
}

uint64_t AttentionServer::free_bytes() const { return impl_->shards.store().free_bytes(); }
uint64_t AttentionServer::capacity_bytes() const { return impl_->shards.store().capacity_bytes(); }
size_t AttentionServer::num_sessions() const { return impl_->sessions.size(); }
size_t AttentionServer::num_waiting_answers() const { return impl_->sender.num_waiting(); }
std::string_view AttentionServer::kernel_name() const { return impl_->executor.kernel().name; }

const Arena& AttentionServer::arena() const { return impl_->shards.store().arena(); }

std::vector<ShardUsageInfo> AttentionServer::shards() const {
  std::vector<ShardUsageInfo> usage;
  for (const NodeShard* shard : impl_->shards.shards()) {
    const ShardSpec& spec = shard->kv->spec();
    uint64_t tokens = 0;
    for (uint32_t layer = spec.layer_begin; layer < spec.layer_end; ++layer) {
      tokens += shard->kv->stored_tokens(layer);
    }
    usage.push_back({spec.shard_id, spec.sequence_id, tokens / spec.num_layers_held(), shard->reserved_bytes()});
  }
  return usage;
}

void AttentionServer::Impl::RemoveSession(const Session& session) {
  sessions.Remove(session.id);
  metrics->sessions.Set(static_cast<double>(sessions.size()));
}

void AttentionServer::Impl::SetKvGauges() {
  metrics->kv_used_bytes.Set(static_cast<double>(shards.store().capacity_bytes() - shards.store().free_bytes()));
  metrics->kv_shards.Set(static_cast<double>(shards.size()));
}

void AttentionServer::Impl::SetPolicyGauges() {
  uint64_t row_bytes = 0, fallback_heads = 0;
  for (const NodeShard* shard : shards.shards()) {
    if (shard->policy == nullptr) continue;
    row_bytes += shard->policy->cached_row_bytes();
    fallback_heads += shard->fallback->num_heads();
  }
  metrics->row_cache_bytes.Set(static_cast<double>(row_bytes));
  metrics->fallback_heads.Set(static_cast<double>(fallback_heads));
}

void AttentionServer::Impl::SetCheckMetrics() {
  const ScrubProgress& progress = scrub.progress();
  const uint64_t corrupt_tiles = shards.store().counters().corrupt_tiles.load(std::memory_order_relaxed);
  metrics->checked_read_bytes.AdvanceTo(static_cast<double>(stored_check.checked_bytes()));
  metrics->checked_scrub_bytes.AdvanceTo(static_cast<double>(progress.checked_bytes));
  metrics->corrupt_tiles.AdvanceTo(static_cast<double>(corrupt_tiles));
  metrics->scrub_passes.AdvanceTo(static_cast<double>(progress.num_passes));
  metrics->scrub_pass.Set(scrub.pass_share());
}

// ---- frames ----

int AttentionServer::Poll() {
  for (PeerId peer : impl_->lost_peers) impl_->data_plane->Disconnect(peer);
  impl_->lost_peers.clear();
  impl_->Housekeeping();
  const int events = impl_->sender.Flush() + impl_->data_plane->Poll(*this);
  const int answered = impl_->RunQueue();
  if (events + answered == 0) impl_->scrub.RunSlice(impl_->clock->NowNs());
  return events + answered;
}

// What has come by now; what comes while it is done is left for the next poll, so that others get
// their turn.
int AttentionServer::Impl::RunQueue() {
  const size_t count = waiting.size();
  for (size_t i = 0; i < count; ++i) {
    QueuedFrame frame = waiting.Pop();
    RunQueued(frame);
    waiting.Recycle(std::move(frame));
  }
  return static_cast<int>(count);
}

void AttentionServer::Impl::RunQueued(const QueuedFrame& frame) {
  Session* session = sessions.Find(frame.session);
  if (session == nullptr) return;  // ended meanwhile: nobody waits for the answer
  if (static_cast<FrameType>(frame.header.type) == FrameType::kQuery) {
    OnQuery(*session, frame.header, frame.payload, frame.received_ns);
  } else {
    OnSpill(*session, frame.header, frame.payload);
  }
}

void AttentionServer::Impl::PollWhileAttending() {
  if (waiting.bytes() < kMaxQueuedBytes) data_plane->Poll(*handler);
}

void AttentionServer::Impl::Housekeeping() {
  const int64_t now_ns = clock->NowNs();
  if (now_ns < next_housekeeping_ns) return;
  next_housekeeping_ns = now_ns + kHousekeepingIntervalNs;
  metrics->transport.AdvanceTo(data_plane->counters());
  SetPolicyGauges();
  SetCheckMetrics();
  session_time.Advance(now_ns);
  if (options.session_idle_ns == 0) return;
  for (SessionId id : sessions.IdleSince(session_time.now_ns() - options.session_idle_ns)) {
    const Session* session = sessions.Find(id);
    LOG_WARN("no frame from worker {} for {:.1f} s: its session ends", session->worker.id,
             SecondsFromNs(options.session_idle_ns));
    data_plane->Disconnect(session->peer);
    RemoveSession(*session);
  }
}

void AttentionServer::OnFrame(std::span<const std::byte> header_bytes, std::span<const std::byte> payload) {
  const int64_t received_ns = impl_->clock->NowNs();
  FrameHeader header;
  Session* session = nullptr;
  FrameError error = DecodeHeader(header_bytes, payload.size(), &header);
  if (error == FrameError::kOk) error = impl_->sessions.Authenticate(header, payload, &session);
  if (error != FrameError::kOk) {
    const bool answerable = static_cast<FrameType>(header.type) != FrameType::kError;
    impl_->Refuse(answerable ? session : nullptr, header, error);
    return;
  }
  session->last_frame_ns = impl_->session_time.now_ns();
  switch (static_cast<FrameType>(header.type)) {
    case FrameType::kSpill:
      // Not while kernels read the shards.
      if (!impl_->attending) {
        impl_->OnSpill(*session, header, payload);
        break;
      }
      [[fallthrough]];
    case FrameType::kQuery:
      impl_->waiting.Push(session->id, header, payload, received_ns);
      break;
    case FrameType::kHeartbeat:
      impl_->OnHeartbeat(*session, header, payload);
      break;
    case FrameType::kError:
      LOG_DEBUG("error frame from worker {}", session->worker.id);
      break;
    case FrameType::kPartial:
    case FrameType::kAck:
      impl_->Refuse(session, header, FrameError::kBadType);
      break;
  }
}

void AttentionServer::OnPeerError(PeerId peer, const absl::Status& status) {
  impl_->lost_peers.push_back(peer);
  const Session* session = impl_->sessions.FindByPeer(peer);
  if (session == nullptr) return;
  LOG_WARN("worker {} is lost, its session ends: {}", session->worker.id, status.ToString());
  impl_->RemoveSession(*session);
}

void AttentionServer::Impl::Refuse(Session* session, const FrameHeader& header, FrameError error,
                                   std::string_view why) {
  metrics->CountRejected(error);
  if (session == nullptr) return;
  const std::string text = fmt::format("node {} refused frame {} of type {}: {}", options.node_id, header.frame_seq,
                                       header.type, why.empty() ? FrameErrorName(error) : why);
  absl::StatusOr<AnswerBuffer> answer = sender.Allocate(ErrorPayloadBytes(text));
  if (!answer.ok()) return;
  ErrorBody body;
  body.error = static_cast<uint32_t>(error);
  body.rejected_type = header.type;
  body.rejected_frame_seq = header.frame_seq;
  WriteError(body, text, answer->payload());
  sender.Send(*session, header, FrameType::kError, *std::move(answer));
}

bool AttentionServer::Impl::IsGranted(Session& session, const FrameHeader& header, ShardId shard) {
  if (shards.MayUse(session.worker, shard)) return true;
  Refuse(&session, header, FrameError::kNotGranted,
         fmt::format("shard {} is not granted to worker {} (incarnation {})", shard.value, session.worker.id,
                     session.worker.incarnation));
  return false;
}

void AttentionServer::Impl::OnQuery(Session& session, const FrameHeader& header, std::span<const std::byte> payload,
                                    int64_t received_ns) {
  QueryView view;
  if (const FrameError error = QueryView::Decode(payload, &view); error != FrameError::kOk) {
    Refuse(&session, header, error);
    return;
  }
  for (uint32_t i = 0; i < view.body().num_entries; ++i) {
    if (!IsGranted(session, header, ShardId(view.entry(i).shard_id))) return;
  }
  const uint32_t head_dim = view.body().head_dim;
  const SessionId session_id = session.id;
  CheckEntries(view, header.layer);
  absl::StatusOr<AnswerBuffer> answer = sender.Allocate(PartialPayloadBytes(entries, head_dim));
  if (!answer.ok()) {
    Refuse(sessions.Find(session_id), header,
           absl::IsResourceExhausted(answer.status()) ? FrameError::kExhausted : FrameError::kBadSize);
    return;
  }
  PartialPayloadWriter writer(answer->payload(), view.body().num_entries, head_dim);
  Attend(view, header.layer, writer, received_ns);
  // The session may have ended during the step.
  if (Session* asker = sessions.Find(session_id); asker != nullptr) {
    sender.Send(*asker, header, FrameType::kPartial, *std::move(answer));
  }
  attending = true;
  step.Finish();
  attending = false;
}

// The answer's entries, without data, and the shards of those that can be answered. What is read for the first time is
// checked, which may take a while.
void AttentionServer::Impl::CheckEntries(const QueryView& view, uint32_t layer) {
  entries.clear();
  query_shards.clear();
  attending = true;
  for (uint32_t i = 0; i < view.body().num_entries; ++i) {
    NodeShard* shard = nullptr;
    entries.push_back(CheckEntry(view, view.entry(i), layer, &shard));
    query_shards.push_back(shard);
    metrics->CountRequest(static_cast<FrameError>(entries.back().status));
  }
  attending = false;
}

// Null, with the reason, unless the query fits the shard, and what it reads is as it was stored.
NodeShard* AttentionServer::Impl::FindQueried(const QueryEntry& query, uint32_t layer, uint32_t head_dim,
                                              PartialEntry* entry, FrameError* error) {
  NodeShard* shard = shards.Find(ShardId(query.shard_id), Epoch(query.sequence_epoch), error);
  if (shard == nullptr) return nullptr;
  const ShardSpec& spec = shard->kv->spec();
  if (head_dim != spec.model.head_dim || query.num_q_heads != spec.num_q_heads_held()) {
    *error = FrameError::kBadGeometry;
  } else if (layer < spec.layer_begin || layer >= spec.layer_end) {
    *error = FrameError::kOutOfRange;
  } else if (const uint64_t end = spec.stripe.LocalIndex(query.visible_end); end > shard->kv->stored_tokens(layer)) {
    *error = FrameError::kNotStored;
  } else if (!stored_check.MayRead(*shard->kv, layer, end)) {
    *error = FrameError::kCorruptKv;
    if (const std::optional<TilePlace> place = shard->kv->FirstCorruptTile(layer); place.has_value()) {
      entry->num_kv_heads = place->kv_head;
      entry->covered_tokens = place->tile;
    }
  }
  return *error == FrameError::kOk ? shard : nullptr;
}

// `shard` is set if the status is kOk.
PartialEntry AttentionServer::Impl::CheckEntry(const QueryView& view, const QueryEntry& query, uint32_t layer,
                                               NodeShard** shard) {
  PartialEntry entry;
  entry.shard_id = query.shard_id;
  FrameError error = FrameError::kOk;
  NodeShard* found = FindQueried(query, layer, view.body().head_dim, &entry, &error);
  if (found != nullptr) error = CheckRequest(*found, RequestOf(*found, view, query, layer), &entry);
  entry.status = static_cast<uint32_t>(error);
  if (error != FrameError::kOk) return entry;
  *shard = found;
  entry.num_q_heads = query.num_q_heads;
  entry.n_q = query.n_q;
  const ShardSpec& spec = found->kv->spec();
  entry.covered_tokens = spec.stripe.CountIn({query.visible_begin, query.visible_end});
  entry.num_kv_heads = spec.num_kv_heads_held();
  if ((query.flags & kQueryMeasure) != 0) entry.flags = kPartialMeasured;
  entry.attended_head_tokens = entry.covered_tokens * entry.num_kv_heads;
  return entry;
}

void AttentionServer::Impl::Attend(const QueryView& view, uint32_t layer, PartialPayloadWriter& writer,
                                   int64_t received_ns) {
  const int64_t start_ns = clock->NowNs();
  attending = true;
  step.Begin();
  for (uint32_t i = 0; i < entries.size(); ++i) {
    if (query_shards[i] == nullptr) {
      writer.Add(entries[i]);
      continue;
    }
    const QueryEntry query = view.entry(i);
    step.Plan(query_shards[i], RequestOf(*query_shards[i], view, query, layer));
    step.SetData(writer.Add(entries[i]));
  }
  step.Run();
  attending = false;
  SetAttended(writer);
  const int64_t end_ns = clock->NowNs();
  writer.SetTimes(static_cast<uint64_t>(start_ns - received_ns), static_cast<uint64_t>(end_ns - start_ns));
  metrics->queue_wait_seconds.Observe(SecondsFromNs(start_ns - received_ns));
  metrics->compute_seconds.Observe(SecondsFromNs(end_ns - start_ns));
  metrics->batch_queries.Observe(static_cast<double>(entries.size()));
}

// What was read is known when it is planned, behind the place of the data.
void AttentionServer::Impl::SetAttended(PartialPayloadWriter& writer) {
  size_t planned = 0;
  for (uint32_t i = 0; i < entries.size(); ++i) {
    if (query_shards[i] == nullptr) continue;
    writer.SetCoverage(i, {entries[i].covered_tokens, step.attended_head_tokens(planned++)});
  }
}

void AttentionServer::Impl::OnSpill(Session& session, const FrameHeader& header, std::span<const std::byte> payload) {
  SpillView spill;
  if (const FrameError error = SpillView::Decode(payload, &spill); error != FrameError::kOk) {
    Refuse(&session, header, error);
    return;
  }
  if (!IsGranted(session, header, ShardId(spill.body().shard_id))) return;
  AckBody ack;
  ack.shard_id = spill.body().shard_id;
  ack.token_begin = spill.body().token_begin;
  ack.num_tokens = spill.body().num_tokens;
  // Room for the answer first: what is stored is acknowledged.
  absl::StatusOr<AnswerBuffer> answer = sender.Allocate(kAckPayloadBytes);
  if (!answer.ok()) {
    metrics->CountRejected(FrameError::kExhausted);
    return;
  }
  const std::optional<FrameError> error = StoreSpill(spill, header.layer, &ack.stored_tokens);
  if (!error.has_value()) {
    waiting.Push(session.id, header, payload, clock->NowNs());
    return;
  }
  ack.status = static_cast<uint32_t>(*error);
  if (*error != FrameError::kOk) metrics->CountRejected(*error);
  WriteAck(ack, answer->payload());
  sender.Send(session, header, FrameType::kAck, *std::move(answer));
}

// Nothing: another thread is storing into the same tiles, for some microseconds.
std::optional<FrameError> AttentionServer::Impl::StoreSpill(const SpillView& spill, uint32_t layer,
                                                            uint64_t* stored_tokens) {
  const SpillBody& body = spill.body();
  FrameError error = FrameError::kOk;
  NodeShard* shard = shards.Find(ShardId(body.shard_id), Epoch(body.sequence_epoch), &error);
  if (shard == nullptr) return error;
  const ShardSpec& spec = shard->kv->spec();
  if (body.num_kv_heads != spec.num_kv_heads_held() || body.head_dim != spec.model.head_dim) {
    return FrameError::kBadGeometry;
  }
  const std::span<const std::byte> section = spill.policy();
  if (shard->policy != nullptr) {
    error = shard->policy->CheckSpill(body.num_tokens, section);
    if (error != FrameError::kOk) return error;
  } else if (!section.empty()) {
    return FrameError::kMalformed;
  }
  const KvExchangeRows rows{spill.k(), spill.v(), static_cast<DType>(body.k_dtype), static_cast<DType>(body.v_dtype)};
  const StoreResult stored = shard->kv->Store(layer, body.token_begin, body.num_tokens, rows);
  if (stored.error == StoreError::kBusy) return std::nullopt;
  if (!stored.ok()) return ToFrameError(stored.error);
  *stored_tokens = stored.stored_tokens;
  metrics->ingest_bytes.Increment(static_cast<double>(spill.k().size() + spill.v().size()));
  if (shard->policy == nullptr) return FrameError::kOk;
  const uint64_t local_begin = spec.stripe.LocalIndex(body.token_begin);
  shard->policy->OnStored(layer, {local_begin, local_begin + body.num_tokens}, section);
  return FrameError::kOk;
}

void AttentionServer::Impl::OnHeartbeat(Session& session, const FrameHeader& header,
                                        std::span<const std::byte> payload) {
  HeartbeatBody heartbeat;
  if (const FrameError error = DecodeHeartbeat(payload, &heartbeat); error != FrameError::kOk) {
    Refuse(&session, header, error);
    return;
  }
  if (heartbeat.is_reply != 0) return;
  heartbeat.is_reply = 1;
  absl::StatusOr<AnswerBuffer> answer = sender.Allocate(kHeartbeatPayloadBytes);
  if (!answer.ok()) return;  // the next one will do
  WriteHeartbeat(heartbeat, answer->payload());
  sender.Send(session, header, FrameType::kHeartbeat, *std::move(answer));
}

}  // namespace tributary

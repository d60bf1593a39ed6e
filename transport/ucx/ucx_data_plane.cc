#include "transport/ucx/ucx_data_plane.h"

#include <poll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cerrno>
#include <cstring>
#include <ctime>
#include <deque>
#include <utility>
#include <vector>

#include "absl/container/flat_hash_map.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/limits.h"
#include "base/log.h"
#include "base/status.h"
#include "fmt/format.h"
#include "transport/ucx/frame_pool.h"
#include "transport/ucx/ucx_address.h"
#include "transport/ucx/ucx_context.h"
#include "transport/ucx/ucx_endpoint.h"
#include "transport/ucx/ucx_memory.h"
#include "transport/ucx/ucx_status.h"
#include "transport/ucx/ucx_worker.h"

namespace tributary {
namespace {

constexpr unsigned kFrameMessageId = 1;
// So that a flood of messages cannot keep Poll() from returning.
constexpr int kMaxProgressPerPoll = 64;
// A worker that says "busy" this often while nothing comes of it is not believed any more, but put
// to sleep.
constexpr int kMaxBusyInARow = 64;
constexpr int64_t kMaxSleepNs = kNsPerMs;
// While frames are on their way; after so much sleep in which none arrived or left, the peer hangs and sleep is long
// again.
constexpr int64_t kTransferSleepNs = 20 * kNsPerUs;
constexpr int64_t kTransferPatienceNs = 20 * kNsPerMs;
constexpr int64_t kCloseTimeoutNs = 2 * kNsPerS;

// What a small frame's payload is asked for while its header is still being checked: its lines lie in another core's
// cache.
constexpr size_t kPrefetchBytes = 4096;

void Prefetch(const void* data, size_t bytes) {
  const auto* line = static_cast<const char*>(data);
  for (size_t i = 0; i < std::min(bytes, kPrefetchBytes); i += 64) __builtin_prefetch(line + i);
}

class EventFd {
 public:
  EventFd() : fd_(eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC)) { TRIBUTARY_CHECK_GE(fd_, 0); }
  ~EventFd() { close(fd_); }
  EventFd(const EventFd&) = delete;
  EventFd& operator=(const EventFd&) = delete;
  int fd() const { return fd_; }
  void Set() {
    const uint64_t one = 1;
    [[maybe_unused]] const ssize_t written = write(fd_, &one, sizeof(one));
  }
  void Clear() {
    uint64_t count = 0;
    [[maybe_unused]] const ssize_t got = read(fd_, &count, sizeof(count));
  }

 private:
  const int fd_;
};

class UcxDataPlaneImpl final : public UcxDataPlane, private FrameBuffer::Owner {
 public:
  UcxDataPlaneImpl(const UcxOptions& options, UcxContext context, UcxMemory send_memory, UcxMemory recv_memory,
                   UcxWorker worker);
  ~UcxDataPlaneImpl() override;
  absl::Status Start();

  const TransportInfo& info() const override { return info_; }
  absl::StatusOr<PeerId> Connect(std::string_view address) override;
  void Disconnect(PeerId peer) override;
  absl::StatusOr<FrameBuffer> AllocateFrame(size_t payload_bytes) override;
  absl::Status Send(PeerId peer, FrameBuffer frame, SendClass send_class) override;
  int Poll(FrameHandler& handler) override;
  void WaitForEvent(int64_t timeout_ns) override;
  void Wake() override;
  DataPlaneCounters counters() const override { return counters_; }
  UcxPoolUsage pool_usage() const override;

 private:
  // Stands before the payload of a bulk frame in the receive arena, or alone while there is no room
  // for it.
  struct BulkReceive {
    UcxDataPlaneImpl* plane = nullptr;
    std::array<std::byte, kFrameHeaderBytes> header{};
    size_t payload_bytes = 0;
    std::byte* payload = nullptr;
  };
  static constexpr size_t kBulkPrologueBytes = (sizeof(BulkReceive) + 63) / 64 * 64;
  struct DeferredReceive {
    BulkReceive receive;
    void* descriptor = nullptr;
  };

  static ucs_status_t OnMessage(void* argument, const void* header, size_t header_bytes, void* data, size_t data_bytes,
                                const ucp_am_recv_param_t* param);
  static void OnBulkReceived(void* request, ucs_status_t status, size_t bytes, void* argument);
  ucs_status_t OnBulkOffer(std::span<const std::byte> header, void* descriptor, size_t data_bytes);
  // False if there is no room in the receive arena.
  bool StartBulkReceive(const BulkReceive& receive, void* descriptor);
  void FinishBulkReceive(std::byte* buffer, ucs_status_t status);
  void Deliver(std::span<const std::byte> header, std::span<const std::byte> payload);

  std::span<std::byte> send_memory() override { return send_memory_.span(); }
  void ReleaseFrame(std::byte* frame) override { send_pool_.Free(frame - sizeof(UcxSendRecord)); }
  void StartDeferredReceives();
  void ReportFailedPeers();
  void ReapClosedPeers();
  void Close(std::unique_ptr<UcxEndpoint> endpoint);

  const UcxOptions options_;
  // In this order: each is destroyed before what it uses.
  UcxContext context_;
  UcxMemory send_memory_;
  UcxMemory recv_memory_;
  FramePool send_pool_;
  FramePool recv_pool_;
  UcxWorker worker_;
  EventFd wake_event_;
  std::atomic<bool> wake_pending_{false};

  TransportInfo info_;
  DataPlaneCounters counters_;
  absl::flat_hash_map<uint32_t, std::unique_ptr<UcxEndpoint>> endpoints_;
  std::vector<std::unique_ptr<UcxEndpoint>> closing_;
  std::deque<DeferredReceive> deferred_;
  uint32_t next_peer_id_ = 1;
  FrameHandler* handler_ = nullptr;  // set within Poll()
  int num_received_ = 0;             // within this Poll()
  UcxEndpointEvents endpoint_events_;
  int num_busy_in_a_row_ = 0;
  int64_t slept_in_transfer_ns_ = 0;  // since the last event
};

UcxDataPlaneImpl::UcxDataPlaneImpl(const UcxOptions& options, UcxContext context, UcxMemory send_memory,
                                   UcxMemory recv_memory, UcxWorker worker)
    : options_(options),
      context_(std::move(context)),
      send_memory_(std::move(send_memory)),
      recv_memory_(std::move(recv_memory)),
      send_pool_(send_memory_.span()),
      recv_pool_(recv_memory_.span()),
      worker_(std::move(worker)) {}

absl::Status UcxDataPlaneImpl::Start() {
  unsigned major = 0, minor = 0, patch = 0;
  ucp_get_version(&major, &minor, &patch);
  info_.name = "ucx";
  info_.release = UcxRelease();
  info_.transports = context_.transports();
  info_.address = EncodeUcxAddress({.major = static_cast<uint16_t>(major),
                                    .minor = static_cast<uint16_t>(minor),
                                    .settings_version = kUcxSettingsVersion,
                                    .worker_address = worker_.address()});
  return worker_.SetMessageHandler(kFrameMessageId, OnMessage, this);
}

UcxDataPlaneImpl::~UcxDataPlaneImpl() {
  for (auto& [id, endpoint] : endpoints_) Close(std::move(endpoint));
  endpoints_.clear();
  const RealClock clock;
  const int64_t deadline_ns = clock.NowNs() + kCloseTimeoutNs;
  ReapClosedPeers();
  while (!closing_.empty() && clock.NowNs() < deadline_ns) {
    worker_.Progress();
    ReapClosedPeers();
  }
  for (auto& endpoint : closing_) {
    LOG_WARN("a UCX endpoint did not close within {} s", kCloseTimeoutNs / kNsPerS);
    endpoint.release()->Abandon();
  }
  // Frames offered and never fetched: their descriptors belong to the worker, which frees them.
}

absl::StatusOr<PeerId> UcxDataPlaneImpl::Connect(std::string_view address) {
  TRIBUTARY_ASSIGN_OR_RETURN(const UcxAddress decoded, DecodeUcxAddress(address));
  unsigned major = 0, minor = 0, patch = 0;
  ucp_get_version(&major, &minor, &patch);
  if ((decoded.major != major || decoded.minor != minor) && !options_.allow_other_releases) {
    return absl::FailedPreconditionError(
        fmt::format("the peer runs UCX {}.{} and this process {}.{}: unlike releases do not mix "
                    "safely; install the same "
                    "one on both sides",
                    decoded.major, decoded.minor, major, minor));
  }
  if (decoded.settings_version != kUcxSettingsVersion) {
    return absl::FailedPreconditionError(
        fmt::format("the peer sets UCX up by version {} of our settings and this process by {}; "
                    "install the same release of tributary on both sides",
                    decoded.settings_version, kUcxSettingsVersion));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(
      std::unique_ptr<UcxEndpoint> endpoint,
      UcxEndpoint::Create(worker_.handle(), decoded.worker_address, &send_pool_, &endpoint_events_));
  const PeerId id(next_peer_id_++);
  endpoints_[id.value] = std::move(endpoint);
  return id;
}

void UcxDataPlaneImpl::Disconnect(PeerId peer) {
  const auto it = endpoints_.find(peer.value);
  if (it == endpoints_.end()) return;
  std::unique_ptr<UcxEndpoint> endpoint = std::move(it->second);
  endpoints_.erase(it);
  Close(std::move(endpoint));
}

void UcxDataPlaneImpl::Close(std::unique_ptr<UcxEndpoint> endpoint) {
  endpoint->StartClose();
  closing_.push_back(std::move(endpoint));
}

absl::StatusOr<FrameBuffer> UcxDataPlaneImpl::AllocateFrame(size_t payload_bytes) {
  if (payload_bytes > limits::kMaxFramePayloadBytes) {
    return absl::InvalidArgumentError(
        fmt::format("payload of {} bytes is beyond the limit of {}", payload_bytes, limits::kMaxFramePayloadBytes));
  }
  std::byte* buffer = send_pool_.Allocate(sizeof(UcxSendRecord) + kFrameHeaderBytes + payload_bytes);
  if (buffer == nullptr) {
    return absl::ResourceExhaustedError(
        fmt::format("no room for a frame of {} bytes: {} of {} bytes of the send arena are in "
                    "flight; poll, then try "
                    "again",
                    payload_bytes, send_pool_.used_bytes(), send_pool_.capacity_bytes()));
  }
  std::byte* frame = buffer + sizeof(UcxSendRecord);
  new (frame) FrameHeader();
  return FrameBuffer(this, frame, payload_bytes);
}

absl::Status UcxDataPlaneImpl::Send(PeerId peer, FrameBuffer frame, SendClass send_class) {
  const auto it = endpoints_.find(peer.value);
  if (it == endpoints_.end()) {
    return absl::UnavailableError(fmt::format("peer {} is unknown or has failed; connect again", peer.value));
  }
  const size_t payload_bytes = frame.payload().size();
  std::byte* buffer = frame.Release() - sizeof(UcxSendRecord);
  TRIBUTARY_RETURN_IF_ERROR(
      it->second->Send(kFrameMessageId, buffer, payload_bytes, send_memory_.handle(), send_class == SendClass::kEager));
  counters_.frames_sent += 1;
  counters_.bytes_sent += kFrameHeaderBytes + payload_bytes;
  return absl::OkStatus();
}

void UcxDataPlaneImpl::Deliver(std::span<const std::byte> header, std::span<const std::byte> payload) {
  ++num_received_;
  counters_.frames_received += 1;
  counters_.bytes_received += header.size() + payload.size();
  if (handler_ != nullptr) handler_->OnFrame(header, payload);  // else we are closing
}

ucs_status_t UcxDataPlaneImpl::OnMessage(void* argument, const void* header, size_t header_bytes, void* data,
                                         size_t data_bytes, const ucp_am_recv_param_t* param) {
  auto* self = static_cast<UcxDataPlaneImpl*>(argument);
  const std::span<const std::byte> header_span{static_cast<const std::byte*>(header), header_bytes};
  if ((param->recv_attr & UCP_AM_RECV_ATTR_FLAG_RNDV) != 0) {
    return self->OnBulkOffer(header_span, data, data_bytes);
  }
  Prefetch(header, header_bytes);
  Prefetch(data, data_bytes);
  self->Deliver(header_span, {static_cast<const std::byte*>(data), data_bytes});
  return UCS_OK;
}

ucs_status_t UcxDataPlaneImpl::OnBulkOffer(std::span<const std::byte> header, void* descriptor, size_t data_bytes) {
  if (header.size() != kFrameHeaderBytes || data_bytes > limits::kMaxFramePayloadBytes ||
      kBulkPrologueBytes + data_bytes > recv_pool_.capacity_bytes()) {
    Deliver(header, {});  // without its payload no handler takes it for a frame, but it counts it
    return UCS_OK;        // UCX tells the sender that it is done
  }
  BulkReceive receive{.plane = this, .payload_bytes = data_bytes};
  std::memcpy(receive.header.data(), header.data(), kFrameHeaderBytes);
  // In order: a frame never overtakes one that waits for room.
  if (!deferred_.empty() || !StartBulkReceive(receive, descriptor)) {
    deferred_.push_back({receive, descriptor});
  }
  return UCS_INPROGRESS;  // the descriptor stays valid
}

bool UcxDataPlaneImpl::StartBulkReceive(const BulkReceive& receive, void* descriptor) {
  std::byte* buffer = recv_pool_.Allocate(kBulkPrologueBytes + receive.payload_bytes);
  if (buffer == nullptr) return false;
  auto* record = new (buffer) BulkReceive(receive);
  record->payload = buffer + kBulkPrologueBytes;
  ucp_request_param_t params{};
  params.op_attr_mask =
      UCP_OP_ATTR_FIELD_CALLBACK | UCP_OP_ATTR_FIELD_USER_DATA | UCP_OP_ATTR_FIELD_MEMORY_TYPE | UCP_OP_ATTR_FIELD_MEMH;
  params.cb.recv_am = OnBulkReceived;
  params.user_data = buffer;
  params.memory_type = UCS_MEMORY_TYPE_HOST;
  params.memh = recv_memory_.handle();
  const ucs_status_ptr_t request =
      ucp_am_recv_data_nbx(worker_.handle(), descriptor, record->payload, receive.payload_bytes, &params);
  if (!UCS_PTR_IS_PTR(request)) FinishBulkReceive(buffer, UCS_PTR_STATUS(request));
  return true;
}

void UcxDataPlaneImpl::OnBulkReceived(void* request, ucs_status_t status, size_t bytes, void* argument) {
  auto* buffer = static_cast<std::byte*>(argument);
  reinterpret_cast<BulkReceive*>(buffer)->plane->FinishBulkReceive(buffer, status);
  ucp_request_free(request);
}

void UcxDataPlaneImpl::FinishBulkReceive(std::byte* buffer, ucs_status_t status) {
  const auto* record = reinterpret_cast<const BulkReceive*>(buffer);
  // A failed fetch is a frame lost with its peer, whose endpoint reports it.
  if (status == UCS_OK) Deliver(record->header, {record->payload, record->payload_bytes});
  recv_pool_.Free(buffer);
}

void UcxDataPlaneImpl::StartDeferredReceives() {
  while (!deferred_.empty() && StartBulkReceive(deferred_.front().receive, deferred_.front().descriptor)) {
    deferred_.pop_front();
  }
}

void UcxDataPlaneImpl::ReportFailedPeers() {
  std::vector<uint32_t> failed;
  for (const auto& [id, endpoint] : endpoints_) {
    if (endpoint->state() == UcxEndpoint::State::kFailed) failed.push_back(id);
  }
  for (const uint32_t id : failed) {
    std::unique_ptr<UcxEndpoint> endpoint = std::move(endpoints_[id]);
    endpoints_.erase(id);
    const absl::Status error = endpoint->error();
    Close(std::move(endpoint));
    counters_.endpoint_errors += 1;
    handler_->OnPeerError(PeerId(id), error);
  }
}

void UcxDataPlaneImpl::ReapClosedPeers() {
  std::erase_if(closing_, [](const auto& endpoint) { return endpoint->PollClosed(); });
}

int UcxDataPlaneImpl::Poll(FrameHandler& handler) {
  handler_ = &handler;
  num_received_ = 0;
  // Until a frame came: the caller may have waited for just this one. UCX counts what arrives, not what it could send.
  for (int i = 0; i < kMaxProgressPerPoll && num_received_ == 0; ++i) {
    const size_t num_in_flight = endpoint_events_.num_in_flight;
    if (worker_.Progress() == 0 && endpoint_events_.num_in_flight == num_in_flight) break;
  }
  if (!deferred_.empty()) StartDeferredReceives();
  const UcxEndpointEvents events = endpoint_events_;
  endpoint_events_.num_sends_done = 0;
  endpoint_events_.num_failures = 0;
  if (events.num_failures > 0) ReportFailedPeers();
  if (!closing_.empty()) ReapClosedPeers();
  handler_ = nullptr;
  const int num_events = num_received_ + events.num_sends_done + events.num_failures;
  if (num_events > 0) {
    num_busy_in_a_row_ = 0;
    slept_in_transfer_ns_ = 0;
  }
  return num_events;
}

void UcxDataPlaneImpl::WaitForEvent(int64_t timeout_ns) {
  if (timeout_ns <= 0) return;
  if (!worker_.Arm() && ++num_busy_in_a_row_ < kMaxBusyInARow) return;  // the caller polls again
  int64_t sleep_ns = std::min(timeout_ns, kMaxSleepNs);
  // No event tells that a full queue of a peer has room again, or moves a fetch on: only progress does.
  const bool in_transfer = endpoint_events_.num_in_flight > 0 || recv_pool_.num_buffers() > 0;
  if (in_transfer && slept_in_transfer_ns_ < kTransferPatienceNs) {
    sleep_ns = std::min(sleep_ns, kTransferSleepNs);
    slept_in_transfer_ns_ += sleep_ns;
  }
  const timespec timeout{.tv_sec = 0, .tv_nsec = static_cast<long>(sleep_ns)};
  pollfd fds[2] = {{.fd = wake_event_.fd(), .events = POLLIN, .revents = 0},
                   {.fd = worker_.event_fd(), .events = POLLIN, .revents = 0}};
  ppoll(fds, 2, &timeout, nullptr);
  // Cleared before the caller looks for work: a Wake() that comes now either finds the flag clear
  // and sets the event anew, or finds it set, and then its work is visible to the caller's next
  // look.
  if ((fds[0].revents & POLLIN) != 0 || wake_pending_.load(std::memory_order_relaxed)) {
    wake_event_.Clear();
    wake_pending_.exchange(false, std::memory_order_acq_rel);
  }
}

void UcxDataPlaneImpl::Wake() {
  if (!wake_pending_.exchange(true, std::memory_order_acq_rel)) wake_event_.Set();
}

UcxPoolUsage UcxDataPlaneImpl::pool_usage() const {
  return {.send_used_bytes = send_pool_.used_bytes(),
          .send_capacity_bytes = send_pool_.capacity_bytes(),
          .recv_used_bytes = recv_pool_.used_bytes(),
          .recv_capacity_bytes = recv_pool_.capacity_bytes(),
          .num_deferred_receives = deferred_.size(),
          .num_closing_peers = closing_.size()};
}

}  // namespace

absl::StatusOr<std::unique_ptr<UcxDataPlane>> MakeUcxDataPlane(const UcxOptions& options) {
  TRIBUTARY_ASSIGN_OR_RETURN(UcxContext context, UcxContext::Create(options));
  TRIBUTARY_ASSIGN_OR_RETURN(UcxMemory send_memory, UcxMemory::Create(context.handle(), options.send_arena_bytes));
  TRIBUTARY_ASSIGN_OR_RETURN(UcxMemory recv_memory, UcxMemory::Create(context.handle(), options.recv_arena_bytes));
  TRIBUTARY_ASSIGN_OR_RETURN(UcxWorker worker, UcxWorker::Create(context.handle()));
  auto plane = std::make_unique<UcxDataPlaneImpl>(options, std::move(context), std::move(send_memory),
                                                  std::move(recv_memory), std::move(worker));
  TRIBUTARY_RETURN_IF_ERROR(plane->Start());
  return plane;
}

}  // namespace tributary

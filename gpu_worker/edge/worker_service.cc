#include "gpu_worker/edge/worker_service.h"

#include <algorithm>
#include <chrono>
#include <future>
#include <random>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "base/status.h"
#include "fmt/format.h"
#include "proto/convert_worker.h"
#include "proto/outside_strings.h"
#include "rpc/grpc_channel.h"
#include "rpc/grpc_status.h"
#include "rpc/security/connection_probe.h"

namespace tributary {

WorkerService::WorkerService(WorkerServiceOptions options, std::function<void(const absl::Status&)> on_refused)
    : options_(std::move(options)),
      on_refused_(std::move(on_refused)),
      stub_(v1::NodeRegistry::NewStub(MakeChannel(options_.coordinator, options_.rpc))) {}

WorkerService::~WorkerService() { Stop(); }

void WorkerService::Start(EngineLoop* loop) {
  loop_ = loop;
  thread_ = std::thread([this] { ThreadMain(); });
}

void WorkerService::SetDraining() {
  MutexLock lock(&mutex_);
  draining_ = true;
  heartbeat_due_ = true;
  changed_.NotifyAll();
}

void WorkerService::Stop() {
  {
    MutexLock lock(&mutex_);
    stopping_ = true;
    changed_.NotifyAll();
    // The writer ends the stream after its last event, and the coordinator answers that. A cancelled
    // stream would lose what is on its way: the last tokens of a sequence that a drain waited for.
    const auto end = WaitEnd(options_.close_timeout_ns);
    while (context_ != nullptr && changed_.WaitUntil(&mutex_, end)) {
    }
    if (context_ != nullptr) context_->TryCancel();
  }
  if (thread_.joinable()) thread_.join();
}

void WorkerService::ThreadMain() {
  int64_t backoff_ns = options_.min_backoff_ns;
  bool reported = false;
  while (true) {
    bool was_welcome = false;
    const absl::Status status = RunStream(&was_welcome);
    StopSequences();
    if (was_welcome) {
      backoff_ns = options_.min_backoff_ns;
      reported = false;
      id_wait_end_ns_.reset();
    }
    {
      MutexLock lock(&mutex_);
      if (stopping_) return;
    }
    if (absl::IsFailedPrecondition(status) || absl::IsInvalidArgument(status) || absl::IsPermissionDenied(status) ||
        absl::IsUnauthenticated(status) || (absl::IsAlreadyExists(status) && !MayWaitForId(status))) {
      on_refused_(status);
      return;
    }
    if (!absl::IsAlreadyExists(status) && !std::exchange(reported, true)) {
      const std::string why = WhyNoTlsConnection(options_.coordinator, options_.rpc.credentials);
      LOG_WARN("no channel to the coordinator at {} ({}); trying again until there is one{}{}", options_.coordinator,
               status.ToString(), why.empty() ? "" : ": ", why);
    }
    if (!Pause(backoff_ns)) return;
    backoff_ns = std::min(2 * backoff_ns, options_.max_backoff_ns);
  }
}

bool WorkerService::MayWaitForId(const absl::Status& status) {
  const int64_t now_ns = RealClock().NowNs();
  if (!id_wait_end_ns_) {
    id_wait_end_ns_ = now_ns + options_.id_patience_ns;
    LOG_WARN("{}. Trying for {:.0f} s, in case that process has ended", std::string(status.message()),
             SecondsFromNs(options_.id_patience_ns));
  }
  return now_ns < *id_wait_end_ns_;
}

absl::Status WorkerService::RunStream(bool* was_welcome) {
  grpc::ClientContext context;
  {
    MutexLock lock(&mutex_);
    if (stopping_) return absl::CancelledError("stopping");
    context_ = &context;
    outgoing_.clear();
    outgoing_.push_back(WorkerEventToProto(options_.hello));
    heartbeat_due_ = draining_;
    stream_open_ = true;
  }
  const std::unique_ptr<Stream> stream = stub_->WorkerChannel(&context);
  std::thread writer([&] { WriteEvents(*stream); });
  absl::Status error;
  v1::WorkerCommand command;
  while (error.ok() && stream->Read(&command)) {
    if (command.has_welcome()) *was_welcome = true;
    error = Handle(command);
  }
  {
    MutexLock lock(&mutex_);
    stream_open_ = false;
    changed_.NotifyAll();
  }
  if (!error.ok()) context.TryCancel();
  writer.join();
  const grpc::Status end = stream->Finish();
  {
    MutexLock lock(&mutex_);
    context_ = nullptr;
    changed_.NotifyAll();
  }
  if (!error.ok()) return error;
  return end.ok() ? absl::UnavailableError("the coordinator closed the channel") : FromGrpcStatus(end);
}

void WorkerService::WriteEvents(Stream& stream) {
  MutexLock lock(&mutex_);
  auto next_heartbeat = std::chrono::steady_clock::now();
  while (stream_open_) {
    if (outgoing_.empty() && stopping_) {
      stream.WritesDone();
      return;
    }
    if (outgoing_.empty()) {
      const auto now = std::chrono::steady_clock::now();
      if (heartbeat_due_ || now >= next_heartbeat) {
        heartbeat_due_ = false;
        next_heartbeat = now + std::chrono::nanoseconds(heartbeat_interval_ns_);
        outgoing_.push_back(HeartbeatEvent());
      } else {
        changed_.WaitUntil(&mutex_, next_heartbeat);
        continue;
      }
    }
    v1::WorkerEvent event = std::move(outgoing_.front());
    outgoing_.pop_front();
    lock.Unlock();
    const bool written = stream.Write(event);
    lock.Lock();
    if (!written) return;  // the reader sees the end too
  }
}

absl::Status WorkerService::Handle(const v1::WorkerCommand& command) {
  switch (command.command_case()) {
    case v1::WorkerCommand::kWelcome: {
      LOG_INFO("welcome at the coordinator {}", options_.coordinator);
      MutexLock lock(&mutex_);
      if (command.welcome().heartbeat_interval_ns() > 0) {
        heartbeat_interval_ns_ = command.welcome().heartbeat_interval_ns();
      }
      return absl::OkStatus();
    }
    case v1::WorkerCommand::kStart:
      return Begin(command.start());
    case v1::WorkerCommand::kContinueSequence:
      return Continue(command.continue_sequence());
    case v1::WorkerCommand::kStep:
      if (loop_->Post(StepFromProto(command.step()))) return absl::OkStatus();
      break;
    case v1::WorkerCommand::kStop:
      if (loop_->Post(StopFromProto(command.stop()))) return absl::OkStatus();
      break;
    case v1::WorkerCommand::COMMAND_NOT_SET:
      return absl::UnimplementedError("a command of an unknown kind; run the same release on coordinator and worker");
  }
  return TooManyCommands();
}

absl::Status WorkerService::TooManyCommands() {
  return absl::ResourceExhaustedError(
      fmt::format("{} commands wait; the coordinator sends more than the protocol allows", EngineLoop::kMaxCommands));
}

absl::Status WorkerService::Begin(const v1::WorkerCommand::StartSequence& start) {
  absl::Status text = CheckOutsideStrings(start);
  absl::StatusOr<SequencePlan> plan = text.ok() ? SequencePlanFromProto(start) : text;
  absl::Status status = plan.status();
  if (plan.ok()) {
    AddEndTokens(options_.eos_tokens, *plan);
    if (loop_->Post(*std::move(plan))) return absl::OkStatus();
    status = absl::ResourceExhaustedError("too many commands wait on this worker; try again");
  }
  Send(WorkerEventToProto(SequenceEnded{SequenceId(start.sequence_id()), status, "", {}}));
  return absl::OkStatus();
}

absl::Status WorkerService::Continue(const v1::WorkerCommand::ContinueSequence& message) {
  ContinuePlan plan = ContinuePlanFromProto(message);
  AddEndTokens(options_.eos_tokens, plan.turn);
  return loop_->Post(std::move(plan)) ? absl::OkStatus() : TooManyCommands();
}

// Returns once the engine has let go of everything that came over the last stream.
void WorkerService::StopSequences() {
  std::promise<void> done;
  loop_->PostStopAll([&done] { done.set_value(); });
  done.get_future().wait();
}

bool WorkerService::Pause(int64_t backoff_ns) {
  // Workers that lost the same coordinator should not all return in the same moment.
  std::minstd_rand random{std::random_device{}()};
  const int64_t jitter_ns = std::uniform_int_distribution<int64_t>(0, backoff_ns / 2)(random);
  const auto end = WaitEnd(backoff_ns / 2 + jitter_ns);
  MutexLock lock(&mutex_);
  while (!stopping_ && changed_.WaitUntil(&mutex_, end)) {
  }
  return !stopping_;
}

void WorkerService::Send(v1::WorkerEvent event) {
  MutexLock lock(&mutex_);
  if (!stream_open_) return;
  outgoing_.push_back(std::move(event));
  changed_.NotifyAll();
}

v1::WorkerEvent WorkerService::HeartbeatEvent() const {
  return WorkerEventToProto(WorkerLoad{loop_->resident_free_bytes(), loop_->num_sequences(), draining_});
}

void WorkerService::OnPrefillProgress(SequenceId sequence, uint32_t layers_done, uint32_t num_layers, double fraction) {
  Send(WorkerEventToProto(PrefillProgress{sequence, layers_done, num_layers, fraction}));
}

void WorkerService::OnTokens(const SequenceTokens& tokens) { Send(WorkerEventToProto(tokens)); }

void WorkerService::OnStepDone(StepId step, std::span<const SequenceTokens> tokens, double step_s) {
  Send(StepDoneToProto(step, tokens, step_s));
}

void WorkerService::OnStalled(SequenceId sequence, const std::string& node_id) {
  Send(WorkerEventToProto(SequenceStalled{sequence, node_id}));
}

void WorkerService::OnResumed(SequenceId sequence) { Send(WorkerEventToProto(SequenceResumed{sequence})); }

void WorkerService::OnKept(SequenceId sequence, const SequenceSummary& summary) {
  Send(WorkerEventToProto(SequenceKept{sequence, summary}));
}

void WorkerService::OnEnded(SequenceId sequence, const absl::Status& status, const std::string& failed_node_id,
                            const SequenceSummary& summary) {
  if (!status.ok() && !absl::IsCancelled(status)) {
    LOG_WARN("sequence {} failed: {}", sequence.value, status.ToString());
  }
  Send(WorkerEventToProto(SequenceEnded{sequence, status, failed_node_id, summary}));
}

}  // namespace tributary

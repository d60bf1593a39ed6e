// The streams of clients and workers: what comes becomes an event, what the core says is queued for writing. Each
// deletes itself when gRPC is done with it. Thread-safe.
#pragma once

#include <utility>

#include "coordinator/core/core_loop.h"
#include "coordinator/edge/open_calls.h"
#include "coordinator/edge/queued_writer.h"
#include "fmt/format.h"
#include "proto/convert_worker.h"
#include "rpc/grpc_status.h"
#include "tributary/v1/coordinator.grpc.pb.h"

namespace tributary {

class GenerateStream;
class WorkerStream;
using GenerateStreams = ReactorRegistry<CallId, GenerateStream>;
using WorkerStreams = ReactorRegistry<StreamId, WorkerStream>;

// Of an answer on its way to a client: a message, and all that waits for one which reads slowly or not at all. The
// tokens of an answer of a million wait easily; the longest lists of alternatives, some 700.
inline constexpr size_t kMaxClientMessageBytes = (1u << 20) - 1024;
inline constexpr size_t kMaxClientBacklogBytes = 8u << 20;

// One Generate call.
class GenerateStream final : public QueuedWriter<grpc::ServerWriteReactor<v1::GenerateEvent>, v1::GenerateEvent> {
 public:
  GenerateStream(CallId call, GenerateStreams* streams, CoreLoop* loop) : call_(call), streams_(streams), loop_(loop) {
    streams_->Add(call_, this);
  }

 private:
  size_t MergeInto(v1::GenerateEvent& waiting, size_t waiting_bytes, const v1::GenerateEvent& next,
                   size_t next_bytes) override {
    const size_t both_bytes = waiting_bytes + next_bytes;
    if (waiting.has_tokens() && next.has_tokens() && both_bytes <= kMaxClientMessageBytes) {
      waiting.mutable_tokens()->MergeFrom(next.tokens());
      return both_bytes;
    }
    if (waiting.has_prefill() && next.has_prefill()) {
      waiting = next;
      return next_bytes;
    }
    return 0;
  }
  size_t MaxQueuedBytes() const override { return kMaxClientBacklogBytes; }
  grpc::Status OnOverflow(size_t queued_bytes) override {
    loop_->Post(event::ClientGone{call_});
    return ToGrpcStatus(absl::ResourceExhaustedError(fmt::format(
        "the client does not read its answer: {} bytes wait for it, and at most {} are kept, so the request "
        "has ended; read while it is made, or ask for less (top_logprobs)",
        queued_bytes, kMaxClientBacklogBytes)));
  }
  void OnCancel() override { loop_->Post(event::ClientGone{call_}); }
  void OnDone() override {
    streams_->Remove(call_);
    delete this;
  }

  const CallId call_;
  GenerateStreams* const streams_;
  CoreLoop* const loop_;
};

// A worker's channel that is not taken: nothing of it is read.
class RefusedWorkerStream final : public grpc::ServerBidiReactor<v1::WorkerEvent, v1::WorkerCommand> {
 public:
  explicit RefusedWorkerStream(const grpc::Status& why) { this->Finish(why); }

 private:
  void OnDone() override { delete this; }
};

// One worker's channel.
class WorkerStream final
    : public QueuedWriter<grpc::ServerBidiReactor<v1::WorkerEvent, v1::WorkerCommand>, v1::WorkerCommand> {
 public:
  WorkerStream(StreamId stream, grpc::CallbackServerContext* context, WorkerStreams* streams, CoreLoop* loop)
      : stream_(stream), context_(context), streams_(streams), loop_(loop) {
    streams_->Add(stream_, this);
    this->StartRead(&message_);
  }

  // The core says that the stream is over. A worker that does not read is cut off.
  void Close(const absl::Status& status) {
    End(ToGrpcStatus(status));
    context_->TryCancel();
  }
  // Ends orderly, so that the worker reads why.
  void Refuse(const absl::Status& status) { End(ToGrpcStatus(status)); }

 private:
  void OnReadDone(bool ok) override {
    if (!ok) return Lost(grpc::Status::OK);
    // Hello once; later events hold numbers and texts of errors, which the log escapes.
    if (message_.has_hello()) {
      if (absl::Status status = CheckEntry(message_.hello()); !status.ok()) return Lost(ToGrpcStatus(status));
    }
    absl::StatusOr<WorkerEvent> word = WorkerEventFromProto(message_);
    if (!word.ok()) return Lost(ToGrpcStatus(word.status()));
    loop_->Post(EventOf(stream_, *std::move(word)));
    this->StartRead(&message_);
  }
  void OnCancel() override { Lost(grpc::Status::CANCELLED); }
  void Lost(const grpc::Status& status) {
    loop_->Post(event::WorkerLost{stream_});
    End(status);
  }
  void OnDone() override {
    streams_->Remove(stream_);
    delete this;
  }

  const StreamId stream_;
  grpc::CallbackServerContext* const context_;
  WorkerStreams* const streams_;
  CoreLoop* const loop_;
  v1::WorkerEvent message_;
};

}  // namespace tributary

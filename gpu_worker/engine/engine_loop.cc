#include "gpu_worker/engine/engine_loop.h"

#include <utility>

namespace tributary {

EngineLoop::EngineLoop(DecodeEngine* engine, Device* device, DataPlane* data_plane, const Clock* clock,
                       std::function<void(const absl::Status&)> on_device_failed)
    : engine_(engine),
      device_(device),
      data_plane_(data_plane),
      clock_(clock),
      on_device_failed_(std::move(on_device_failed)) {
  Publish();
}

EngineLoop::~EngineLoop() { Stop(); }

void EngineLoop::Start() {
  thread_ = std::thread([this] { ThreadMain(); });
}

void EngineLoop::Stop() {
  stopping_.store(true);
  data_plane_->Wake();
  if (thread_.joinable()) thread_.join();
}

bool EngineLoop::Post(EngineCommand command) {
  {
    std::lock_guard lock(mutex_);
    if (commands_.size() >= kMaxCommands) return false;
    commands_.push_back(std::move(command));
    has_commands_.store(true, std::memory_order_release);
  }
  data_plane_->Wake();
  return true;
}

void EngineLoop::PostStopAll(std::function<void()> done) {
  {
    std::lock_guard lock(mutex_);
    commands_.clear();
    commands_.push_back(StopAllCommand{std::move(done)});
    has_commands_.store(true, std::memory_order_release);
  }
  data_plane_->Wake();
}

bool EngineLoop::idle() const {
  std::lock_guard lock(mutex_);
  return commands_.empty() && !running_command_ && num_sequences() == 0;
}

void EngineLoop::ThreadMain() {
  IdleStrategy idle(IdleOptions{}, clock_);
  while (!stopping_.load(std::memory_order_acquire)) {
    int num_events = 0;
    // One command, then one piece of everything else: neither starves the other.
    if (RunCommand()) ++num_events;
    if (engine_->RunOnce()) ++num_events;
    if (num_events > 0) {
      Publish();
      CheckDevice();
    }
    idle.AfterPoll(num_events, *data_plane_);
  }
}

bool EngineLoop::RunCommand() {
  if (!has_commands_.load(std::memory_order_acquire)) return false;
  EngineCommand command;
  {
    std::lock_guard lock(mutex_);
    command = std::move(commands_.front());
    commands_.pop_front();
    if (commands_.empty()) has_commands_.store(false, std::memory_order_relaxed);
    running_command_ = true;
  }
  std::visit([this](auto& c) { Run(c); }, command);
  Publish();
  std::lock_guard lock(mutex_);
  running_command_ = false;
  return true;
}

void EngineLoop::Run(SequencePlan& plan) { engine_->Start(std::move(plan)); }

void EngineLoop::Run(ContinuePlan& plan) { engine_->Continue(std::move(plan)); }

void EngineLoop::Run(StepCommand& step) { engine_->Step(step); }

void EngineLoop::Run(StopCommand& stop) { engine_->Stop(stop.sequence_id, stop.epoch); }

void EngineLoop::Run(StopAllCommand& stop) {
  engine_->StopAll();
  stop.done();
}

void EngineLoop::CheckDevice() {
  if (on_device_failed_ == nullptr || device_->status().ok()) return;
  std::exchange(on_device_failed_, nullptr)(device_->status());
}

void EngineLoop::Publish() {
  num_sequences_.store(engine_->num_sequences(), std::memory_order_relaxed);
  const DeviceMemory memory = device_->memory();
  resident_free_bytes_.store(memory.resident_pool_bytes - memory.resident_used_bytes, std::memory_order_relaxed);
}

}  // namespace tributary

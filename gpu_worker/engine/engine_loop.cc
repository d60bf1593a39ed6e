#include "gpu_worker/engine/engine_loop.h"

#include <utility>

namespace tributary {

EngineLoop::EngineLoop(DecodeEngine* engine, Device* device, DataPlane* data_plane, const Clock* clock,
                       std::function<void(const absl::Status&)> on_device_failed)
    : engine_(engine),
      device_(device),
      on_device_failed_(std::move(on_device_failed)),
      idle_(data_plane, clock),
      // One command, then one piece of everything else: neither starves the other.
      loop_(
          {.max_waiting = kMaxCommands, .one_item_per_turn = true}, &idle_,
          [this](EngineCommand& command) { RunCommand(command); }, [this] { return Turn(); }) {
  Publish();
}

void EngineLoop::RunCommand(EngineCommand& command) {
  std::visit([this](auto& c) { Run(c); }, command);
  Publish();
  CheckDevice();
}

int EngineLoop::Turn() {
  if (!engine_->RunOnce()) return 0;
  Publish();
  CheckDevice();
  return 1;
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

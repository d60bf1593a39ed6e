// The thread that owns the engine and its data plane: takes commands from any thread, runs them in order, and works on
// prefills and arrivals between them.
#pragma once

#include <atomic>
#include <cstdint>
#include <functional>
#include <utility>
#include <variant>

#include "absl/status/status.h"
#include "base/clock.h"
#include "gpu_worker/engine/decode_engine.h"
#include "process/loop/loop_idle.h"
#include "process/loop/owner_loop.h"
#include "transport/data_plane.h"

namespace tributary {

// All sequences end (OnEnded for each), then `done` runs on the loop's thread.
struct StopAllCommand {
  std::function<void()> done;
};

using EngineCommand = std::variant<SequencePlan, ContinuePlan, StepCommand, StopCommand, StopAllCommand>;

class EngineLoop {
 public:
  // All outlive the loop. `device` is read for its free memory and its status, on the loop's thread. on_device_failed
  // is called once, on that thread, when the device cannot be used any more; the engine has ended its sequences by
  // then.
  EngineLoop(DecodeEngine* engine, Device* device, DataPlane* data_plane, const Clock* clock,
             std::function<void(const absl::Status&)> on_device_failed = nullptr);
  // Stops after the command that runs.
  ~EngineLoop() = default;

  void Start() { loop_.Start(); }
  void Stop() { loop_.Stop(); }

  // Thread-safe. False when kMaxCommands wait: more than any coordinator that keeps to the protocol sends.
  bool Post(EngineCommand command) { return loop_.Post(std::move(command)); }
  // Drops what waits, of a stream that is over, and stops all sequences. Never refused.
  void PostStopAll(std::function<void()> done) { loop_.PostInstead(StopAllCommand{std::move(done)}); }

  // These are as of the loop's last turn. Thread-safe.
  uint32_t num_sequences() const { return num_sequences_.load(std::memory_order_relaxed); }
  uint64_t resident_free_bytes() const { return resident_free_bytes_.load(std::memory_order_relaxed); }
  // Neither sequences nor commands.
  bool idle() const { return !loop_.has_items() && num_sequences() == 0; }

  static constexpr size_t kMaxCommands = 4096;

 private:
  void RunCommand(EngineCommand& command);
  int Turn();
  void Run(SequencePlan& plan);
  void Run(ContinuePlan& plan);
  void Run(StepCommand& step);
  void Run(StopCommand& stop);
  void Run(StopAllCommand& stop);
  void Publish();
  void CheckDevice();

  DecodeEngine* const engine_;
  Device* const device_;
  std::function<void(const absl::Status&)> on_device_failed_;  // null once called
  std::atomic<uint32_t> num_sequences_{0};
  std::atomic<uint64_t> resident_free_bytes_{0};
  DataPlaneIdle idle_;
  OwnerLoop<EngineCommand> loop_;
};

}  // namespace tributary

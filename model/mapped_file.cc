#include "model/mapped_file.h"

#include <signal.h>
#include <sys/mman.h>
#include <unistd.h>

#include <atomic>
#include <cerrno>
#include <mutex>
#include <string>
#include <string_view>

#include "base/status.h"
#include "model/model_file.h"

namespace tributary {
namespace {

// What is mapped now, for the handler of SIGBUS, which may neither lock nor allocate: a list that only grows.
struct Guard {
  std::atomic<const std::byte*> begin;  // null: mapped no more
  size_t bytes;
  std::string path;
  Guard* next;
};
std::atomic<Guard*> guards{nullptr};
struct sigaction previous_action;

void AddGuard(std::span<const std::byte> bytes, const std::filesystem::path& path) {
  auto* guard = new Guard{bytes.data(), bytes.size(), path.string(), guards.load()};
  while (!guards.compare_exchange_weak(guard->next, guard)) {
  }
}

void RemoveGuard(const std::byte* begin) {
  for (Guard* guard = guards.load(); guard != nullptr; guard = guard->next) {
    const std::byte* expected = begin;
    if (guard->begin.compare_exchange_strong(expected, nullptr)) return;
  }
}

void WriteError(std::string_view text) { (void)!write(STDERR_FILENO, text.data(), text.size()); }

void OnBusError(int signal, siginfo_t* info, void* /*context*/) {
  const auto* at = static_cast<const std::byte*>(info->si_addr);
  for (const Guard* guard = guards.load(); guard != nullptr; guard = guard->next) {
    const std::byte* begin = guard->begin.load();
    if (begin == nullptr || at < begin || at >= begin + guard->bytes) continue;
    WriteError("tributary: ");
    WriteError(guard->path);
    WriteError(
        ": this file became shorter while its weights were in use, or its disk failed; the process ends, since they "
        "are lost. Put a new file in its place with 'mv' instead of writing into it, and start the process again\n");
    _exit(1);
  }
  sigaction(signal, &previous_action, nullptr);  // on return the fault comes again
}

// Faults elsewhere are left to whom they were left to before.
void InstallHandler() {
  static std::once_flag installed;
  std::call_once(installed, [] {
    struct sigaction action = {};
    action.sa_sigaction = &OnBusError;
    action.sa_flags = SA_SIGINFO;
    sigemptyset(&action.sa_mask);
    sigaction(SIGBUS, &action, &previous_action);
  });
}

}  // namespace

absl::StatusOr<MappedFile> MappedFile::Open(const std::filesystem::path& path) {
  TRIBUTARY_ASSIGN_OR_RETURN(const ModelFile file, ModelFile::Open(path));
  MappedFile mapped;
  if (file.bytes() == 0) return mapped;
  InstallHandler();
  void* memory = mmap(nullptr, file.bytes(), PROT_READ, MAP_PRIVATE, file.fd(), 0);
  if (memory == MAP_FAILED) return ModelFileError(path, errno);
  mapped.bytes_ = {static_cast<const std::byte*>(memory), file.bytes()};
  AddGuard(mapped.bytes_, path);
  return mapped;
}

MappedFile::~MappedFile() {
  if (bytes_.empty()) return;
  RemoveGuard(bytes_.data());
  munmap(const_cast<std::byte*>(bytes_.data()), bytes_.size());
}

}  // namespace tributary

#include "transport/ucx/ucx_memory.h"

#include <sys/mman.h>
#include <sys/resource.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "fmt/format.h"
#include "transport/ucx/ucx_status.h"

namespace tributary {

absl::StatusOr<UcxMemory> UcxMemory::Create(ucp_context_h context, size_t bytes) {
  void* base = mmap(nullptr, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) {
    return absl::ResourceExhaustedError(
        fmt::format("cannot map a frame arena of {} bytes: {}; choose a smaller one", bytes, std::strerror(errno)));
  }
  UcxMemory memory(context, static_cast<std::byte*>(base), bytes);
  ucp_mem_map_params_t params{};
  params.field_mask = UCP_MEM_MAP_PARAM_FIELD_ADDRESS | UCP_MEM_MAP_PARAM_FIELD_LENGTH | UCP_MEM_MAP_PARAM_FIELD_FLAGS;
  params.address = base;
  params.length = bytes;
  params.flags = UCP_MEM_MAP_NONBLOCK;
  const ucs_status_t status = ucp_mem_map(context, &params, &memory.handle_);
  if (status != UCS_OK) {
    memory.handle_ = nullptr;
    rlimit limit{};
    getrlimit(RLIMIT_MEMLOCK, &limit);
    return StatusFromUcx(status, fmt::format("registering a frame arena of {} bytes (RLIMIT_MEMLOCK is {}; RDMA needs "
                                             "more than the arenas)",
                                             bytes, limit.rlim_cur));
  }
  return memory;
}

UcxMemory::UcxMemory(UcxMemory&& other) noexcept
    : context_(other.context_),
      base_(std::exchange(other.base_, nullptr)),
      bytes_(other.bytes_),
      handle_(std::exchange(other.handle_, nullptr)) {}

UcxMemory::~UcxMemory() {
  if (handle_ != nullptr) ucp_mem_unmap(context_, handle_);
  if (base_ != nullptr) munmap(base_, bytes_);
}

}  // namespace tributary

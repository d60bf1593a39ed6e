// A region of memory that UCX may read and write: mapped and registered once, at start.
#pragma once

#include <ucp/api/ucp.h>

#include <cstddef>
#include <span>

#include "absl/status/statusor.h"

namespace tributary {

// Move-only. The context outlives it.
class UcxMemory {
 public:
  // RESOURCE_EXHAUSTED with the size and RLIMIT_MEMLOCK, if that may be why.
  static absl::StatusOr<UcxMemory> Create(ucp_context_h context, size_t bytes);
  UcxMemory(UcxMemory&& other) noexcept;
  UcxMemory& operator=(UcxMemory&&) = delete;
  ~UcxMemory();

  std::span<std::byte> span() const { return {base_, bytes_}; }
  ucp_mem_h handle() const { return handle_; }

 private:
  UcxMemory(ucp_context_h context, std::byte* base, size_t bytes) : context_(context), base_(base), bytes_(bytes) {}
  ucp_context_h context_;
  std::byte* base_;
  size_t bytes_;
  ucp_mem_h handle_ = nullptr;
};

}  // namespace tributary

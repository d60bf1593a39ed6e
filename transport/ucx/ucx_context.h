// RAII of ucp_context_h: UCX's configuration.
//
// One thing can only be set in the environment, before the library is loaded: UCX_MEM_EVENTS=n keeps its hooks out of
// mmap and munmap. Nothing listens to them here (there is no cache of registrations), so they cost a jump.
#pragma once

#include <ucp/api/ucp.h>

#include <cstdint>
#include <string>

#include "absl/status/statusor.h"
#include "transport/ucx/ucx_options.h"

namespace tributary {

// Rises when a setting changes on which both ends of a connection must agree (the segment size of shared memory).
inline constexpr uint32_t kUcxSettingsVersion = 2;

// Move-only.
class UcxContext {
 public:
  // Applies the settings that safety depends on, whatever the environment says (ucx_context.cc
  // lists them), and takes UCX's crash handlers out of the process.
  static absl::StatusOr<UcxContext> Create(const UcxOptions& options);
  UcxContext(UcxContext&& other) noexcept;
  UcxContext& operator=(UcxContext&&) = delete;
  ~UcxContext();

  ucp_context_h handle() const { return handle_; }
  // UCX_TLS in force.
  const std::string& transports() const { return transports_; }

 private:
  UcxContext(ucp_context_h handle, std::string transports) : handle_(handle), transports_(std::move(transports)) {}
  ucp_context_h handle_;
  std::string transports_;
};

// "1.13.1".
std::string UcxRelease();

}  // namespace tributary

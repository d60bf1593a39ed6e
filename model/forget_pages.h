// Memory of maps that are read no more.
#pragma once

#include <cstddef>
#include <span>

namespace tributary {

// These bytes of a file's map need not stay in this process's memory: their pages are read again if need be. Bytes of
// any other memory would be lost.
void ForgetPages(std::span<const std::byte> bytes);

}  // namespace tributary

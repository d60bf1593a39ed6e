// What this build calls itself, and what it speaks.
#pragma once

#include <cstdint>
#include <string_view>

namespace tributary {

// "0.1.0": the version in CMakeLists.txt.
std::string_view Version();
// Short hash of the commit that was built, or "unknown" outside a repository.
std::string_view Revision();
// "0.1.0 (c1ede90b3f)", as --version, logs and peers show it.
std::string_view VersionText();

// Raised by any change of the control plane that an older peer would misread (proto/README.md).
// Frames have a version of their own (kFrameVersion).
inline constexpr uint32_t kProtocolVersion = 5;

}  // namespace tributary

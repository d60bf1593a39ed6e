// What this build calls itself, and what it speaks.
#pragma once

#include <cstdint>

namespace tributary {

inline constexpr char kVersion[] = "0.1.0";

// Raised by any change of the control plane that an older peer would misread (proto/README.md).
// Frames have a version of their own (kFrameVersion).
inline constexpr uint32_t kProtocolVersion = 2;

}  // namespace tributary

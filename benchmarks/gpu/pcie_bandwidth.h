// How fast the copy engine brings host memory to the GPU, to compare with.
#pragma once

namespace tributary {

// Pinned memory, 1 GiB, median of some copies; in 10^9 bytes per second. Ends the process on an error.
double MeasureHostToDeviceGbPerS();

}  // namespace tributary

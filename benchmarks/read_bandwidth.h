// The machine's read bandwidth, to divide by: threads that each sum an array far larger than the caches.
#pragma once

namespace tributary {

// Median of 15 rounds over 256 MiB per thread, in 10^9 bytes per second. Takes about a second.
double MeasureReadBandwidthGbPerS(int num_threads);

}  // namespace tributary

// What is fuzzed: the decoders of every frame type, and a shard that is fed what they let through.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>

namespace tributary {

// `bytes` is a header and a payload, as they come from the network: anything at all. Dies if an
// invariant breaks; reads of bytes that are not there are for the sanitizers to find, so the span
// should end where its allocation does.
void FuzzFrame(std::span<const std::byte> bytes);

}  // namespace tributary

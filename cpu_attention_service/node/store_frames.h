// What kv_store/ answers, in the words of frames.
#pragma once

#include "kv_store/store_result.h"
#include "wire/frame.h"

namespace tributary {

// Translates the outcome of storing a spill. REQUIRES: not kBusy nor kNeedsOwner, which are no answer to a worker.
inline FrameError ToFrameError(StoreError error) {
  switch (error) {
    case StoreError::kOk:
      return FrameError::kOk;
    case StoreError::kUnknownShard:
      return FrameError::kUnknownShard;
    case StoreError::kStaleEpoch:
      return FrameError::kStaleEpoch;
    case StoreError::kOutOfRange:
      return FrameError::kOutOfRange;
    case StoreError::kBadGeometry:
      return FrameError::kBadGeometry;
    case StoreError::kOtherContent:
      return FrameError::kOtherContent;
    case StoreError::kCorrupt:
      return FrameError::kCorruptKv;
    case StoreError::kExhausted:
    case StoreError::kBusy:
    case StoreError::kNeedsOwner:
      return FrameError::kExhausted;
  }
  return FrameError::kExhausted;
}

}  // namespace tributary

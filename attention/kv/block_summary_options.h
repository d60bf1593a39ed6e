// Which summaries of a stream's keys are kept: what a policy asks for and a shard makes.
#pragma once

#include <cstdint>

#include "attention/kv/block_summary_layout.h"

namespace tributary {

struct BlockSummaryOptions {
  SummaryKind kind = SummaryKind::kMean;
  SummaryStorage storage = SummaryStorage::kInt8;
  uint32_t block_tokens = 32;  // 16, 32, 64 or 128

  friend bool operator==(const BlockSummaryOptions&, const BlockSummaryOptions&) = default;
};

}  // namespace tributary

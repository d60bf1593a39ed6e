#include "transport/ucx/frame_pool.h"

#include <bit>

#include "base/check.h"

namespace tributary {

FramePool::FramePool(std::span<std::byte> region) : base_(region.data()), pages_(region.size() / kPageBytes) {
  TRIBUTARY_CHECK_EQ(reinterpret_cast<uintptr_t>(base_) % 64, 0u);
  TRIBUTARY_CHECK_LT(pages_.size(), size_t{kNone});
  bins_.fill(kNone);
  quick_.fill(kNone);
  if (!pages_.empty()) MakeFree(0, static_cast<uint32_t>(pages_.size()));
}

size_t FramePool::BinOf(uint32_t num_pages) { return std::bit_width(num_pages) - 1; }

void FramePool::Link(uint32_t first) {
  Page& page = pages_[first];
  uint32_t& head = bins_[BinOf(page.num_pages)];
  page.prev = kNone;
  page.next = head;
  if (head != kNone) pages_[head].prev = first;
  head = first;
}

void FramePool::Unlink(uint32_t first) {
  const Page& page = pages_[first];
  if (page.prev == kNone) {
    bins_[BinOf(page.num_pages)] = page.next;
  } else {
    pages_[page.prev].next = page.next;
  }
  if (page.next != kNone) pages_[page.next].prev = page.prev;
}

void FramePool::MakeFree(uint32_t first, uint32_t num_pages) {
  pages_[first].state = State::kInside;
  pages_[first + num_pages - 1].end_state = State::kInside;
  const uint32_t right = first + num_pages;
  if (right < pages_.size() && pages_[right].state == State::kFree) {
    Unlink(right);
    num_pages += pages_[right].num_pages;
    pages_[right].state = State::kInside;
  }
  if (first > 0 && pages_[first - 1].end_state == State::kFree) {
    const uint32_t left = first - pages_[first - 1].num_pages;
    pages_[first - 1].end_state = State::kInside;
    Unlink(left);
    num_pages += first - left;
    first = left;
  }
  pages_[first].state = State::kFree;
  pages_[first].num_pages = num_pages;
  pages_[first + num_pages - 1].end_state = State::kFree;
  pages_[first + num_pages - 1].num_pages = num_pages;
  Link(first);
}

uint32_t FramePool::TakeFree(uint32_t num_pages) {
  uint32_t found = kNone;
  for (size_t bin = BinOf(num_pages); bin < kNumBins && found == kNone; ++bin) {
    // Only in the first bin may a run be too short.
    for (uint32_t run = bins_[bin]; run != kNone && found == kNone; run = pages_[run].next) {
      if (pages_[run].num_pages >= num_pages) found = run;
    }
  }
  if (found == kNone) return kNone;
  Unlink(found);
  const uint32_t found_pages = pages_[found].num_pages;
  pages_[found + found_pages - 1].end_state = State::kInside;
  pages_[found].num_pages = num_pages;
  if (found_pages > num_pages) {
    pages_[found].state = State::kUsed;  // or the rest would merge with it again
    MakeFree(found + num_pages, found_pages - num_pages);
  }
  return found;
}

void FramePool::MergeQuickRuns() {
  for (uint32_t& head : quick_) {
    while (head != kNone) {
      const uint32_t first = head;
      head = pages_[first].next;
      MakeFree(first, pages_[first].num_pages);
    }
  }
}

std::byte* FramePool::Allocate(size_t bytes) {
  if (bytes > capacity_bytes()) return nullptr;
  const auto num_pages = static_cast<uint32_t>((bytes + kPageBytes - 1) / kPageBytes);
  TRIBUTARY_CHECK_GT(num_pages, 0u);
  uint32_t first = kNone;
  if (num_pages <= kQuickPages && quick_[num_pages] != kNone) {
    first = quick_[num_pages];
    quick_[num_pages] = pages_[first].next;
  } else {
    first = TakeFree(num_pages);
    if (first == kNone) {
      MergeQuickRuns();
      first = TakeFree(num_pages);
    }
    if (first == kNone) return nullptr;
  }
  pages_[first].state = State::kUsed;
  used_pages_ += num_pages;
  ++num_buffers_;
  return base_ + size_t{first} * kPageBytes;
}

void FramePool::Free(std::byte* buffer) {
  const size_t offset = static_cast<size_t>(buffer - base_);
  TRIBUTARY_CHECK_LT(offset, capacity_bytes());
  TRIBUTARY_CHECK_EQ(offset % kPageBytes, 0u);
  const auto first = static_cast<uint32_t>(offset / kPageBytes);
  Page& page = pages_[first];
  TRIBUTARY_CHECK(page.state == State::kUsed);
  used_pages_ -= page.num_pages;
  --num_buffers_;
  if (page.num_pages <= kQuickPages) {
    page.state = State::kQuick;
    page.next = quick_[page.num_pages];
    quick_[page.num_pages] = first;
  } else {
    MakeFree(first, page.num_pages);
  }
}

}  // namespace tributary

#include "client/text/stop_strings.h"

#include <algorithm>
#include <utility>

namespace tributary {
namespace {

// Bytes of the longest end of `text` that `stop` begins with, less than all of it.
size_t Overlap(std::string_view text, std::string_view stop) {
  for (size_t bytes = std::min(stop.size() - 1, text.size()); bytes > 0; --bytes) {
    if (text.ends_with(stop.substr(0, bytes))) return bytes;
  }
  return 0;
}

}  // namespace

std::string StopStrings::Add(std::string_view text) {
  if (!found_.empty()) return "";
  std::string whole = std::exchange(held_, {}) + std::string(text);
  size_t first_end = std::string::npos;
  for (const std::string& stop : stops_) {
    const size_t begin = whole.find(stop);
    if (begin == std::string::npos) continue;
    const size_t end = begin + stop.size();
    if (end < first_end || (end == first_end && stop.size() > found_.size())) {
      first_end = end;
      found_ = stop;
    }
  }
  if (!found_.empty()) return whole.substr(0, first_end - found_.size());
  size_t num_held = 0;
  for (const std::string& stop : stops_) num_held = std::max(num_held, Overlap(whole, stop));
  held_ = whole.substr(whole.size() - num_held);
  whole.erase(whole.size() - num_held);
  return whole;
}

std::string StopStrings::Flush() { return std::exchange(held_, {}); }

}  // namespace tributary

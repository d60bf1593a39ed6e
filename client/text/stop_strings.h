// Stop strings in text that comes in parts: they are found across the borders of parts, and never given out.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace tributary {

// Of one answer. The one that is complete first ends the text, of several at the same place the longest: so it does not
// matter how the text is cut. Thread-compatible.
class StopStrings {
 public:
  // None of them empty.
  explicit StopStrings(std::vector<std::string> stops) : stops_(std::move(stops)) {}

  // What is certain to stand before any stop string; nothing once one is found.
  std::string Add(std::string_view text);
  // At the end of the answer: what was held back as the possible beginning of one.
  std::string Flush();
  // The stop string that ended the text, or "".
  const std::string& found() const { return found_; }

 private:
  const std::vector<std::string> stops_;
  std::string held_;
  std::string found_;
};

}  // namespace tributary

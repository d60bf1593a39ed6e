// Shows how far the prefill is: a bar on a terminal, nothing elsewhere.
#pragma once

#include <cstdio>
#include <string>

namespace tributary {

class PrefillBar {
 public:
  // Draws on `out` if it is a terminal and `enabled`.
  PrefillBar(std::FILE* out, bool enabled);
  ~PrefillBar() { Clear(); }
  PrefillBar(const PrefillBar&) = delete;
  PrefillBar& operator=(const PrefillBar&) = delete;

  void Show(double fraction, const std::string& what);
  void Clear();

 private:
  std::FILE* const out_;
  const bool enabled_;
  bool drawn_ = false;
};

}  // namespace tributary

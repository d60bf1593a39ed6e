#include "client/terminal/progress.h"

#include <unistd.h>

#include <algorithm>

#include "fmt/format.h"

namespace tributary {

PrefillBar::PrefillBar(std::FILE* out, bool enabled) : out_(out), enabled_(enabled && isatty(fileno(out)) != 0) {}

void PrefillBar::Show(double fraction, const std::string& what) {
  if (!enabled_) return;
  constexpr int kWidth = 32;
  const double clamped = std::clamp(fraction, 0.0, 1.0);
  const int full = static_cast<int>(clamped * kWidth);
  std::fputs(fmt::format("\r\033[K[{}{}] {:3.0f} %  {}", std::string(full, '#'), std::string(kWidth - full, '.'),
                         clamped * 100, what)
                 .c_str(),
             out_);
  std::fflush(out_);
  drawn_ = true;
}

void PrefillBar::Clear() {
  if (!drawn_) return;
  std::fputs("\r\033[K", out_);
  std::fflush(out_);
  drawn_ = false;
}

}  // namespace tributary

// Prints docs/metrics.md: `./dev docs`.
#include <cstdio>

#include "telemetry/metrics_doc.h"

int main() {
  const std::string text = tributary::MetricsMarkdown();
  return std::fwrite(text.data(), 1, text.size(), stdout) == text.size() ? 0 : 1;
}

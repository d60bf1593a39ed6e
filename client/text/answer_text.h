// The text of one answer while its tokens come: decoded, and cut at the first stop string.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/text/stop_strings.h"
#include "client/text/text_codec.h"

namespace tributary {

// Thread-compatible. The parts that Add() and End() return are the text, in order. Errors as of TextCodec.
class AnswerText {
 public:
  // `codec` outlives it and decodes this answer alone meanwhile. No stop string is empty.
  AnswerText(TextCodec* codec, std::vector<std::string> stops) : codec_(codec), stops_(std::move(stops)) {}

  absl::StatusOr<std::string> Add(std::span<const uint32_t> tokens);
  // Call it once, at the end of the answer, also of one that was broken off: the codec is free then.
  absl::StatusOr<std::string> End();

  // The stop string that ended it: what comes behind it is not asked for any more. "" so far.
  const std::string& stopped_by() const { return stops_.found(); }
  // All of it so far.
  const std::string& text() const { return text_; }

 private:
  std::string Take(std::string part);

  TextCodec* const codec_;
  StopStrings stops_;
  std::string text_;
};

}  // namespace tributary

#include "client/text/answer_text.h"

#include <utility>

#include "base/status.h"

namespace tributary {

std::string AnswerText::Take(std::string part) {
  text_ += part;
  return part;
}

absl::StatusOr<std::string> AnswerText::Add(std::span<const uint32_t> tokens) {
  TRIBUTARY_ASSIGN_OR_RETURN(const std::string certain, codec_->AddToAnswer(tokens));
  return Take(stops_.Add(certain));
}

absl::StatusOr<std::string> AnswerText::End() {
  TRIBUTARY_ASSIGN_OR_RETURN(const std::string rest, codec_->EndAnswer());
  std::string last = stops_.Add(rest);
  return Take(last + stops_.Flush());
}

}  // namespace tributary

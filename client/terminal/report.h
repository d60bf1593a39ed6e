// What generate, run, score and status print: JSON for scripts (fields are fixed), tables for
// people.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/status/status.h"
#include "nlohmann/json.hpp"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

struct GenerateResult {
  std::vector<uint32_t> tokens;
  std::vector<float> logprobs;                // natural log, one per token
  std::vector<v1::TopLogprobs> top_logprobs;  // one per token, if asked for
  v1::GenerateEvent::Summary summary;         // empty if a stop string ended the answer
  bool has_text = false;
  std::string text;        // what the tokens stand for, without a stop string
  std::string stopped_by;  // the stop string that ended it
};

// A piece of the answer as it comes.
void Append(const v1::GenerateEvent::TokenChunk& chunk, GenerateResult* result);

// "stop" if a stop string ended it, else the summary's.
std::string FinishReason(const GenerateResult& result);

// "text" is null if there is no text for the tokens; bytes that are no UTF-8 show as U+FFFD. Of an answer that a stop
// string ended there is no summary, and so no placement and no times. Ids of 64 bits are strings, here and in the
// status.
nlohmann::ordered_json GenerateJson(const GenerateResult& result);
// nll_mean (natural log), tokens, perplexity, and where the context lay.
nlohmann::ordered_json ScoreJson(const GenerateResult& result);
// {"error": {"code": "INVALID_ARGUMENT", "message": ...}}
nlohmann::ordered_json ErrorJson(const absl::Status& status);
nlohmann::ordered_json StatusJson(const v1::StatusResponse& status);
// One line.
std::string DumpJson(const nlohmann::ordered_json& object);

// -mean(logprobs); 0 without tokens.
double MeanNll(const GenerateResult& result);

// Where the context lay and how long each stage took.
std::string SummaryTable(const GenerateResult& result);
std::string StatusTable(const v1::StatusResponse& status);

std::string FormatBytes(uint64_t bytes);    // "20.9 MiB"
std::string FormatCount(uint64_t count);    // "8,192"
std::string FormatSeconds(double seconds);  // "1.24 s", "3.1 ms", "870 us"

}  // namespace tributary

// What generate, run, score and status print: JSON for scripts (fields are fixed), tables for
// people.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "nlohmann/json.hpp"
#include "tributary/v1/coordinator.pb.h"

namespace tributary {

struct GenerateResult {
  std::vector<uint32_t> tokens;
  std::vector<float> logprobs;                // natural log, one per token
  std::vector<v1::TopLogprobs> top_logprobs;  // one per token, if asked for
  v1::GenerateEvent::Summary summary;
  bool is_byte_vocab = false;
};

// A piece of the answer as it comes.
void Append(const v1::GenerateEvent::TokenChunk& chunk, GenerateResult* result);

// "text" is null unless the vocabulary is the 256 bytes; bytes that are no UTF-8 show as U+FFFD.
nlohmann::ordered_json GenerateJson(const GenerateResult& result);
// nll_mean (natural log), tokens, perplexity, and where the context lay.
nlohmann::ordered_json ScoreJson(const GenerateResult& result);
nlohmann::ordered_json StatusJson(const v1::StatusResponse& status);
// One line.
std::string DumpJson(const nlohmann::ordered_json& object);

// -mean(logprobs); 0 without tokens.
double MeanNll(const GenerateResult& result);

// Where the context lay and how long each stage took.
std::string SummaryTable(const v1::GenerateEvent::Summary& summary);
std::string StatusTable(const v1::StatusResponse& status);

std::string FormatBytes(uint64_t bytes);    // "20.9 MiB"
std::string FormatCount(uint64_t count);    // "8,192"
std::string FormatSeconds(double seconds);  // "1.24 s", "3.1 ms", "870 us"

}  // namespace tributary

#include "client/api/request_builder.h"

#include <cerrno>
#include <charconv>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <iterator>
#include <sstream>

#include "base/clock.h"
#include "base/limits.h"
#include "base/status.h"
#include "fmt/format.h"
#include "model/byte_text.h"
#include "proto/convert.h"
#include "proto/convert_policy.h"

namespace tributary {
namespace {

absl::StatusOr<v1::Placement::Cut> ParseCut(const std::string& name) {
  if (name == "auto") return v1::Placement::CUT_AUTO;
  if (name == "tokens") return v1::Placement::CUT_TOKENS;
  if (name == "heads") return v1::Placement::CUT_HEADS;
  if (name == "both") return v1::Placement::CUT_BOTH;
  return absl::InvalidArgumentError(fmt::format("--shard-cut {} is unknown; use auto, tokens, heads or both", name));
}

absl::StatusOr<std::vector<uint32_t>> PromptTokens(const RequestOptions& options, uint32_t vocab_size) {
  std::vector<uint32_t> tokens;
  if (!options.prompt_tokens_file.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(options.prompt_tokens_file));
    TRIBUTARY_ASSIGN_OR_RETURN(tokens, ParseTokenIds(text));
  } else if (!options.prompt.empty() || !options.prompt_file.empty()) {
    TRIBUTARY_RETURN_IF_ERROR(CheckByteVocab(vocab_size, "give token ids with --prompt-tokens-file FILE"));
    std::string text = options.prompt;
    if (!options.prompt_file.empty()) {
      TRIBUTARY_ASSIGN_OR_RETURN(text, ReadTextFile(options.prompt_file));
    }
    tokens = TokensFromBytes(text);
  }
  if (tokens.empty() && options.continue_request_id.empty())
    return absl::InvalidArgumentError("the prompt is empty; it needs at least one token");
  return tokens;
}

}  // namespace

absl::Status FillCommon(const RequestOptions& options, v1::GenerateRequest& request) {
  v1::Sampling& sampling = *request.mutable_sampling();
  sampling.set_temperature(options.temperature);
  sampling.set_top_k(options.top_k);
  sampling.set_top_p(options.top_p);
  sampling.set_seed(options.seed);

  v1::Placement& placement = *request.mutable_placement();
  placement.set_window_tokens(options.window_tokens);
  if (options.sink_tokens.has_value()) {
    placement.set_sink_tokens(*options.sink_tokens);
    placement.set_has_sink_tokens(true);
  }
  placement.set_block_tokens(options.block_tokens);
  if (!options.kv_dtype.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(const DType dtype, ParseDType(options.kv_dtype));
    placement.set_kv_dtype(DTypeToProto(dtype));
  }
  if (!options.remote_k_dtype.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(const DType dtype, ParseKvDType(options.remote_k_dtype));
    placement.set_remote_k_dtype(DTypeToProto(dtype));
  }
  if (!options.remote_v_dtype.empty()) {
    TRIBUTARY_ASSIGN_OR_RETURN(const DType dtype, ParseKvDType(options.remote_v_dtype));
    placement.set_remote_v_dtype(DTypeToProto(dtype));
  }
  TRIBUTARY_ASSIGN_OR_RETURN(const v1::Placement::Cut cut, ParseCut(options.shard_cut));
  placement.set_cut(cut);
  placement.set_max_nodes(options.max_nodes);
  placement.set_all_resident(options.all_resident);
  *request.mutable_attention_policy() = PolicyToProto(options.policy);
  request.set_report_attention_heads(options.report_attention_heads);
  request.set_ignore_eos(options.ignore_eos);
  request.set_top_logprobs(options.top_logprobs);
  request.set_request_id(options.request_id);
  request.set_continue_request_id(options.continue_request_id);
  if (options.keep_s > 0) {
    v1::Keep& keep = *request.mutable_keep();
    keep.set_lease_ns(static_cast<int64_t>(options.keep_s * static_cast<double>(kNsPerS)));
    keep.set_max_context_tokens(options.keep_context_tokens);
  }
  return absl::OkStatus();
}

absl::Status CheckByteVocab(uint32_t vocab_size, const char* instead) {
  if (vocab_size == kByteVocab) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("this model has a vocabulary of {} tokens, and text is understood only for the 256 bytes; {}",
                  vocab_size, instead));
}

absl::StatusOr<std::string> ReadTextFile(const std::string& path) {
  std::string text;
  if (path == "-") {
    text.assign(std::istreambuf_iterator<char>(std::cin), {});
  } else {
    std::error_code ignored;
    if (std::filesystem::is_directory(path, ignored)) {
      return absl::InvalidArgumentError(fmt::format("'{}' is a folder, not a file", path));
    }
    std::ifstream file(path, std::ios::binary);
    if (!file) {
      return absl::NotFoundError(fmt::format("cannot read '{}': {}", path, std::strerror(errno)));
    }
    text.assign(std::istreambuf_iterator<char>(file), {});
  }
  if (text.size() > limits::kMaxPromptBytes) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' has {} bytes; at most {} are taken", path, text.size(), limits::kMaxPromptBytes));
  }
  return text;
}

absl::Status CheckInputFiles(const RequestOptions& options) {
  for (const std::string& path : {options.prompt_file, options.prompt_tokens_file, options.text_file}) {
    if (path.empty() || path == "-") continue;  // standard input can be read only once
    TRIBUTARY_RETURN_IF_ERROR(ReadTextFile(path).status());
  }
  return absl::OkStatus();
}

absl::StatusOr<std::vector<uint32_t>> ParseTokenIds(const std::string& text) {
  std::vector<uint32_t> tokens;
  std::istringstream words(text);
  for (std::string word; words >> word;) {
    uint32_t token = 0;
    const auto [stop, error] = std::from_chars(word.data(), word.data() + word.size(), token);
    if (error != std::errc() || stop != word.data() + word.size()) {
      return absl::InvalidArgumentError(fmt::format(
          "token {} is '{}', not an id; the file holds whitespace-separated numbers", tokens.size() + 1, word));
    }
    tokens.push_back(token);
  }
  return tokens;
}

absl::StatusOr<v1::GenerateRequest> BuildGenerateRequest(const RequestOptions& options, uint32_t vocab_size) {
  v1::GenerateRequest request;
  TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<uint32_t> tokens, PromptTokens(options, vocab_size));
  request.mutable_prompt_tokens()->Add(tokens.begin(), tokens.end());
  request.set_max_tokens(options.max_tokens);
  TRIBUTARY_RETURN_IF_ERROR(FillCommon(options, request));
  return request;
}

absl::StatusOr<v1::GenerateRequest> BuildScoreRequest(const RequestOptions& options, uint32_t vocab_size) {
  TRIBUTARY_RETURN_IF_ERROR(CheckByteVocab(vocab_size, "score needs a model with a byte vocabulary"));
  TRIBUTARY_ASSIGN_OR_RETURN(const std::string text, ReadTextFile(options.text_file));
  const std::vector<uint32_t> tokens = TokensFromBytes(text);
  if (tokens.size() <= options.prefill_tokens) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' has {} tokens and --prefill-tokens takes {} of them; none is left to score",
                    options.text_file, tokens.size(), options.prefill_tokens));
  }
  v1::GenerateRequest request;
  const auto split = tokens.begin() + options.prefill_tokens;
  request.mutable_prompt_tokens()->Add(tokens.begin(), split);
  request.mutable_forced_tokens()->Add(split, tokens.end());
  request.set_max_tokens(static_cast<uint32_t>(tokens.size() - options.prefill_tokens));
  TRIBUTARY_RETURN_IF_ERROR(FillCommon(options, request));
  request.set_ignore_eos(true);
  return request;
}

}  // namespace tributary

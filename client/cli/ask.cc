#include "client/cli/ask.h"

#include <algorithm>
#include <cmath>
#include <optional>
#include <utility>

#include "base/status.h"
#include "client/api/request_builder.h"
#include "client/terminal/output.h"
#include "client/terminal/progress.h"
#include "client/terminal/report.h"
#include "client/text/answer_text.h"
#include "fmt/format.h"
#include "model/byte_text.h"

namespace tributary {
namespace {

constexpr const char* kInstead =
    "name the folder that has its tokenizer.json with --tokenizer DIR, or give token ids with --prompt-tokens-file "
    "FILE "
    "(score: --tokens-file FILE)";

// With a vocabulary of bytes, the text becomes tokens only now.
absl::Status FitToVocabulary(uint32_t vocab_size, PreparedRequest& request) {
  RequestInput& input = request.input;
  if (request.codec == nullptr && input.is_text) TRIBUTARY_RETURN_IF_ERROR(CheckByteVocab(vocab_size, kInstead));
  if (request.codec == nullptr && vocab_size == kByteVocab) {
    request.codec = MakeByteCodec();
    if (input.is_text) input.tokens = TokensFromBytes(input.text);
  }
  if (request.codec == nullptr && !request.options.stops.empty()) {
    return absl::InvalidArgumentError(
        "--stop needs the answer as text; name the folder that has the model's tokenizer.json with --tokenizer DIR");
  }
  const auto beyond = std::find_if(input.tokens.begin(), input.tokens.end(),
                                   [vocab_size](uint32_t token) { return token >= vocab_size; });
  if (beyond == input.tokens.end()) return absl::OkStatus();
  return absl::InvalidArgumentError(
      fmt::format("{} has token {}, and the model's vocabulary ends with {}; is it of another model?",
                  input.is_text ? "the tokenizer's answer" : "the file", *beyond, vocab_size - 1));
}

struct Ask {
  bool is_score;
  bool streams;          // the answer goes to standard output as it comes
  std::string_view did;  // "generated", "scored": for the progress bar
};

// One request's stream: what has come of it, and what of that was printed.
class Follower {
 public:
  Follower(Client& client, PreparedRequest& request, const Ask& ask, uint32_t max_tokens)
      : client_(client),
        ask_(ask),
        max_tokens_(max_tokens),
        prefill_text_(fmt::format("prefill of {} tokens", FormatCount(request.input.tokens.size()))),
        says_(!request.options.json),
        bar_(stderr, !request.options.json && !request.options.quiet) {
    if (request.codec != nullptr && !ask.is_score) answer_.emplace(request.codec.get(), request.options.stops);
  }

  GenerateHandlers Handlers() {
    bar_.Show(0, prefill_text_);
    GenerateHandlers handlers;
    handlers.on_prefill = [this](const auto& progress) { bar_.Show(progress.fraction(), prefill_text_); };
    handlers.on_tokens = [this](const auto& chunk) { OnTokens(chunk); };
    handlers.on_stalled = [this](const auto& stalled) {
      const bool is_silent = stalled.reason() == v1::GenerateEvent::Stalled::REASON_SILENT;
      Say(is_silent ? fmt::format("waiting for '{}', which is silent; the answer goes on when it is heard again",
                                  stalled.node_id())
                    : fmt::format("'{}' is gone; what it held is computed again, then the answer goes on",
                                  stalled.node_id()));
    };
    handlers.on_resumed = [this] { Say("going on"); };
    return handlers;
  }

  // What the stream came to.
  absl::StatusOr<GenerateResult> Finish(absl::StatusOr<v1::GenerateEvent::Summary> summary) {
    if (answer_.has_value()) Print(answer_->End());
    bar_.Clear();
    TRIBUTARY_RETURN_IF_ERROR(broken_);
    if (answer_.has_value()) {
      result_.has_text = true;
      result_.text = answer_->text();
      result_.stopped_by = answer_->stopped_by();
    }
    if (!summary.ok() && result_.stopped_by.empty()) return summary.status();
    if (summary.ok()) result_.summary = *std::move(summary);
    return std::move(result_);
  }

 private:
  void Say(const std::string& text) {
    bar_.Clear();
    if (says_) std::fprintf(stderr, "== %s\n", text.c_str());
  }

  void OnTokens(const v1::GenerateEvent::TokenChunk& chunk) {
    if (!broken_.ok() || (answer_.has_value() && !answer_->stopped_by().empty())) return;  // it is cancelled already
    Append(chunk, &result_);
    const std::span<const uint32_t> tokens(chunk.tokens().data(), static_cast<size_t>(chunk.tokens_size()));
    if (answer_.has_value()) {
      Print(answer_->Add(tokens));
    } else if (ask_.streams) {
      std::string ids;
      for (const uint32_t token : tokens) ids += fmt::format("{} ", token);
      Print(ids);
    }
    if (!ask_.streams) {
      bar_.Show(
          static_cast<double>(result_.tokens.size()) / max_tokens_,
          fmt::format("{} {} of {} tokens", ask_.did, FormatCount(result_.tokens.size()), FormatCount(max_tokens_)));
    }
    if (!broken_.ok() || (answer_.has_value() && !answer_->stopped_by().empty())) client_.CancelRunning();
  }

  void Print(const absl::StatusOr<std::string>& text) {
    if (!text.ok()) {
      broken_.Update(text.status());
    } else if (ask_.streams && !text->empty()) {
      bar_.Clear();
      if (!WriteOut(*text)) broken_.Update(OutStatus());
    }
  }

  Client& client_;
  const Ask ask_;
  const uint32_t max_tokens_;
  const std::string prefill_text_;
  const bool says_;
  PrefillBar bar_;
  std::optional<AnswerText> answer_;
  GenerateResult result_;
  absl::Status broken_;  // of the tokenizer or of standard output
};

absl::StatusOr<GenerateResult> AskCluster(Client& client, PreparedRequest& request, const Ask& ask, Interrupt& stop) {
  TRIBUTARY_ASSIGN_OR_RETURN(const v1::StatusResponse status, client.Status());
  if (status.geometry().vocab_size() == 0) {
    return absl::UnavailableError(
        fmt::format("the cluster at {} has no GPU worker yet; see 'tributary status'", client.address()));
  }
  TRIBUTARY_RETURN_IF_ERROR(FitToVocabulary(status.geometry().vocab_size(), request));
  TRIBUTARY_ASSIGN_OR_RETURN(const v1::GenerateRequest message,
                             ask.is_score ? BuildScoreRequest(request.options, request.input.tokens)
                                          : BuildGenerateRequest(request.options, request.input.tokens));
  Follower follower(client, request, ask, message.max_tokens());
  stop.SetHandler([&client] { client.CancelAll(); });
  auto summary = client.Generate(message, follower.Handlers());
  stop.SetHandler({});
  return follower.Finish(std::move(summary));
}

// A run that measured nothing of what this is about is easily taken for one that did.
void NoteIfNothingWasRemote(const GenerateResult& result, const RequestOptions& options) {
  const auto& summary = result.summary;
  if (options.all_resident || summary.remote_tokens() > 0 || !result.stopped_by.empty()) return;
  PrintErr(
      "tributary: all of the context, {} tokens, fitted into the window and the sinks of the worker: nothing was "
      "remote; a longer prompt or a smaller --window-tokens changes that\n",
      FormatCount(summary.context_tokens()));
}

}  // namespace

absl::StatusOr<PreparedRequest> Prepare(const RequestOptions& options, const std::string& model_dir, Interrupt& stop) {
  const ExitOnSignal at_once(stop);
  PreparedRequest request{.options = options, .input = {}, .codec = nullptr};
  TRIBUTARY_ASSIGN_OR_RETURN(request.input, ReadRequestInput(options));
  const bool speaks_text = request.input.is_text || !options.stops.empty() || !options.tokenizer_dir.empty() ||
                           (request.input.tokens.empty() && !options.continue_request_id.empty());
  if (!speaks_text || TokenizerFolder(options.tokenizer_dir, model_dir).empty()) return request;
  TRIBUTARY_ASSIGN_OR_RETURN(
      request.codec,
      MakeTextCodec({.tokenizer_dir = options.tokenizer_dir, .model_dir = model_dir, .python = options.python}));
  if (!request.input.is_text) return request;
  // What is appended to a sequence is no beginning.
  TRIBUTARY_ASSIGN_OR_RETURN(request.input.tokens, options.continue_request_id.empty()
                                                       ? request.codec->EncodePrompt(request.input.text)
                                                       : request.codec->Encode(request.input.text));
  return request;
}

absl::Status GenerateAndPrint(Client& client, PreparedRequest& request, Interrupt& stop) {
  const RequestOptions& options = request.options;
  TRIBUTARY_ASSIGN_OR_RETURN(
      const GenerateResult result,
      AskCluster(client, request, {.is_score = false, .streams = !options.json, .did = "generated"}, stop));
  if (options.json) {
    PrintOut("{}\n", DumpJson(GenerateJson(result)));
    return OutStatus();
  }
  const std::string report = fmt::format("\n\n[{}]\n{}", FinishReason(result), SummaryTable(result));
  if (options.quiet) {
    WriteErr(report);
  } else {
    WriteOut(report);
  }
  NoteIfNothingWasRemote(result, options);
  return OutStatus();
}

absl::Status ScoreAndPrint(Client& client, PreparedRequest& request, Interrupt& stop) {
  const RequestOptions& options = request.options;
  TRIBUTARY_ASSIGN_OR_RETURN(const GenerateResult result,
                             AskCluster(client, request, {.is_score = true, .streams = false, .did = "scored"}, stop));
  if (options.json) {
    PrintOut("{}\n", DumpJson(ScoreJson(result)));
    return OutStatus();
  }
  const double nll = MeanNll(result);
  const std::string score = fmt::format("nll_mean {:.6f} over {} tokens (perplexity {:.4f})\n", nll,
                                        FormatCount(result.logprobs.size()), std::exp(nll));
  WriteOut(score);
  if (options.quiet) {
    WriteErr(SummaryTable(result));
  } else {
    WriteOut(SummaryTable(result));
  }
  NoteIfNothingWasRemote(result, options);
  return OutStatus();
}

}  // namespace tributary

#include "client/cli/chat.h"

#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <csignal>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/status.h"
#include "client/api/request_builder.h"
#include "client/terminal/line_reader.h"
#include "client/terminal/output.h"
#include "client/terminal/report.h"
#include "client/text/answer_text.h"
#include "client/text/text_codec.h"
#include "fmt/format.h"
#include "model/byte_text.h"

namespace tributary {
namespace {

constexpr const char* kHelp =
    "/new begins anew, /exit or Ctrl-D ends the chat, Ctrl-C ends an answer, /help says this\n";

// What one answer came to.
struct Answer {
  absl::StatusOr<v1::GenerateEvent::Summary> summary;
  std::string text;
  std::string stopped_by;
  size_t num_tokens = 0;
};

class Chat {
 public:
  Chat(Client& client, const ChatCommand& command, std::unique_ptr<TextCodec> codec, Interrupt& stop)
      : client_(client),
        command_(command),
        codec_(std::move(codec)),
        stop_(stop),
        is_terminal_(isatty(STDIN_FILENO) != 0),
        lines_(STDIN_FILENO, [&stop] { return stop.stop_requested(); }) {
    stop_.SetFilter([this](int signal) { return TakeSignal(signal); });
    stop_.SetHandler([this] { client_.CancelAll(); });
    Forget();
  }
  ~Chat() {
    stop_.SetFilter({});
    stop_.SetHandler({});
    if (!kept_id_.empty()) (void)client_.Cancel(kept_id_);  // its memory is needed
  }
  Chat(const Chat&) = delete;
  Chat& operator=(const Chat&) = delete;

  absl::Status Run() {
    if (is_terminal_) Say(kHelp);
    while (true) {
      if (is_terminal_) Say("> ");
      hinted_ = false;
      TRIBUTARY_ASSIGN_OR_RETURN(const std::optional<std::string> line, lines_.Read());
      if (!line.has_value() || *line == "/exit") return OutStatus();
      if (line->find_first_not_of(" \t") == std::string::npos) continue;
      if (*line == "/help") {
        Say(kHelp);
      } else if (*line == "/new") {
        if (!kept_id_.empty()) (void)client_.Cancel(kept_id_);
        Forget();
      } else if (const absl::Status turn = Turn(*line); !turn.ok()) {
        if (!is_terminal_ || !OutStatus().ok() || absl::IsUnavailable(turn) || stop_.stop_requested()) return turn;
        PrintErr("tributary: {}\n", std::string(turn.message()));
      }
    }
  }

 private:
  void Say(std::string_view text) {
    if (!command_.request.quiet) WriteErr(text);
  }

  // On another thread.
  bool TakeSignal(int signal) {
    if (signal != SIGINT) return false;
    if (answering_.load()) {
      client_.CancelRunning();
      return true;
    }
    if (!is_terminal_ || hinted_.exchange(true)) return false;
    WriteErr("\nCtrl-D or /exit ends the chat, and so does Ctrl-C once more\n> ");
    return true;
  }

  // The chat so far; a system message stays.
  void Forget() {
    kept_id_.clear();
    messages_.clear();
    if (!command_.system.empty()) messages_.push_back({"system", command_.system});
  }

  // The user's words and their answer; on an error neither has been said.
  absl::Status Turn(const std::string& words) {
    messages_.push_back({"user", words});
    const absl::StatusOr<Answer> answer = Ask();
    const absl::Status status = answer.ok() ? answer->summary.status() : answer.status();
    const bool is_cut = answer.ok() && (!answer->stopped_by.empty() || absl::IsCancelled(status));
    // The coordinator lets go of the sequence, or is told to: what failed before it was asked left it as it was.
    if ((!status.ok() || is_cut) && !kept_id_.empty()) (void)client_.Cancel(std::exchange(kept_id_, {}));
    if (is_cut && status.ok()) (void)client_.Cancel(answer->summary->kept().request_id());  // it ended at that moment
    if (!answer.ok() || (!status.ok() && !is_cut)) {
      messages_.pop_back();
      return status;
    }
    messages_.push_back({"assistant", answer->text});
    WriteOut("\n");
    Report(*answer);
    return OutStatus();
  }

  absl::StatusOr<Answer> Ask() {
    TRIBUTARY_ASSIGN_OR_RETURN(ChatPrompt prompt, codec_->EncodeChat(messages_, !kept_id_.empty()));
    if (!prompt.continues && !kept_id_.empty()) {
      (void)client_.Cancel(std::exchange(kept_id_, {}));  // the template has changed what was said before
    }
    TRIBUTARY_ASSIGN_OR_RETURN(const RequestOptions options, OptionsFor(prompt));
    TRIBUTARY_ASSIGN_OR_RETURN(const v1::GenerateRequest request, BuildGenerateRequest(options, prompt.tokens));
    AnswerText text(codec_.get(), options.stops);
    Answer answer;
    absl::Status broken;
    const auto print = [&](const absl::StatusOr<std::string>& part) {
      if (!part.ok()) broken.Update(part.status());
      if (part.ok() && !part->empty() && !WriteOut(*part)) broken.Update(OutStatus());
    };
    GenerateHandlers handlers;
    handlers.on_tokens = [&](const v1::GenerateEvent::TokenChunk& chunk) {
      if (!broken.ok() || !text.stopped_by().empty()) return;
      answer.num_tokens += static_cast<size_t>(chunk.tokens_size());
      print(text.Add({chunk.tokens().data(), static_cast<size_t>(chunk.tokens_size())}));
      if (!broken.ok() || !text.stopped_by().empty()) client_.CancelRunning();
    };
    answering_ = true;
    answer.summary = client_.Generate(request, handlers);
    answering_ = false;
    print(text.End());
    TRIBUTARY_RETURN_IF_ERROR(broken);
    answer.text = text.text();
    answer.stopped_by = text.stopped_by();
    return answer;
  }

  // The request of this turn, whose answer gets the room that is left.
  absl::StatusOr<RequestOptions> OptionsFor(const ChatPrompt& prompt) const {
    RequestOptions options = command_.request;
    uint64_t room = options.keep_context_tokens;
    if (!kept_id_.empty()) {
      room = growth_tokens_;
      // Layout and policy are the sequence's.
      options = {};
      options.stops = command_.request.stops;
      options.temperature = command_.request.temperature;
      options.top_k = command_.request.top_k;
      options.top_p = command_.request.top_p;
      options.min_p = command_.request.min_p;
      options.seed = command_.request.seed;
      options.presence_penalty = command_.request.presence_penalty;
      options.frequency_penalty = command_.request.frequency_penalty;
      options.repetition_penalty = command_.request.repetition_penalty;
      options.logit_bias = command_.request.logit_bias;
      options.ignore_eos = command_.request.ignore_eos;
      options.max_tokens = command_.request.max_tokens;
      options.keep_s = command_.request.keep_s;
      options.continue_request_id = kept_id_;
    }
    if (prompt.tokens.size() >= room) {
      return absl::OutOfRangeError(
          fmt::format("the chat has room for {} more tokens, and these words have {}; begin anew with /new, or start "
                      "the chat with a larger --keep-context-tokens than {}",
                      room, prompt.tokens.size(), command_.request.keep_context_tokens));
    }
    options.max_tokens = static_cast<uint32_t>(std::min<uint64_t>(options.max_tokens, room - prompt.tokens.size()));
    return options;
  }

  void Report(const Answer& answer) {
    if (!answer.stopped_by.empty() || !answer.summary.ok()) {
      Say(fmt::format("[{} after {} tokens; the next turn reads all of the chat again]\n",
                      answer.summary.ok() || !answer.stopped_by.empty() ? "a stop string ended it" : "interrupted",
                      answer.num_tokens));
      return;
    }
    const v1::GenerateEvent::Summary& summary = *answer.summary;
    kept_id_ = summary.has_kept() ? summary.kept().request_id() : "";
    growth_tokens_ = summary.kept().growth_tokens();
    Say(fmt::format("[{}; {} tokens in, {} out; context {} tokens, {} of them remote; {}]\n", summary.finish_reason(),
                    FormatCount(summary.prompt_tokens()), FormatCount(summary.generated_tokens()),
                    FormatCount(summary.context_tokens()), FormatCount(summary.remote_tokens()),
                    FormatSeconds(summary.prefill_s() + summary.decode_s())));
  }

  Client& client_;
  const ChatCommand& command_;
  const std::unique_ptr<TextCodec> codec_;
  Interrupt& stop_;
  const bool is_terminal_;
  LineReader lines_;
  std::vector<ChatMessage> messages_;
  std::string kept_id_;         // of the sequence that has all but the newest message; "": there is none
  uint64_t growth_tokens_ = 0;  // that it has room for
  std::atomic<bool> answering_{false};
  std::atomic<bool> hinted_{false};
};

}  // namespace

absl::StatusOr<std::unique_ptr<TextCodec>> MakeChatCodec(const ChatCommand& command) {
  return MakeTextCodec({.tokenizer_dir = command.request.tokenizer_dir,
                        .model_dir = command.cluster.model_dir,
                        .python = command.request.python});
}

absl::Status ChatWith(Client& client, const ChatCommand& command, std::unique_ptr<TextCodec> codec, Interrupt& stop) {
  TRIBUTARY_ASSIGN_OR_RETURN(const v1::StatusResponse status, client.Status());
  const uint32_t vocab_size = status.geometry().vocab_size();
  if (vocab_size == 0) {
    return absl::UnavailableError(
        fmt::format("the cluster at {} has no GPU worker yet; see 'tributary status'", client.address()));
  }
  if (codec->is_bytes()) {
    TRIBUTARY_RETURN_IF_ERROR(
        CheckByteVocab(vocab_size, "name the folder that has its tokenizer.json with --tokenizer DIR"));
  }
  if (!codec->has_chat_template() && !command.request.quiet) {
    WriteErr("tributary: the model has no chat template; what is said goes to it line by line\n");
  }
  Chat chat(client, command, std::move(codec), stop);
  return chat.Run();
}

}  // namespace tributary

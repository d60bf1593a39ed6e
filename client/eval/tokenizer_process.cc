#include "client/eval/tokenizer_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/outside_text.h"
#include "base/status.h"
#include "fmt/format.h"
#include "nlohmann/json.hpp"

namespace tributary {
namespace {

using Json = nlohmann::json;

constexpr size_t kMaxShownErrorBytes = 2000;

absl::StatusOr<std::string> Quoted(std::string_view text) {
  const Json string = std::string(text);
  std::string dumped = string.dump(-1, ' ', false, Json::error_handler_t::ignore);
  if (dumped.size() == string.dump(-1, ' ', false, Json::error_handler_t::replace).size()) return dumped;
  return absl::InvalidArgumentError("the text is not UTF-8, which a tokenizer needs; convert it, for example by iconv");
}

class TokenizerProcess : public TextCodec {
 public:
  TokenizerProcess(pid_t pid, int socket) : pid_(pid), socket_(socket) {}
  ~TokenizerProcess() override {
    close(socket_);  // the end of its input, at which it ends
    waitpid(pid_, nullptr, 0);
  }

  bool is_bytes() const override { return false; }
  const ChatFrame& chat() const override { return chat_; }
  const std::vector<uint32_t>& prefix() const override { return prefix_; }

  absl::Status ReadGreeting() {
    TRIBUTARY_ASSIGN_OR_RETURN(const Json greeting, ReadReply());
    prefix_ = greeting.value("prefix", std::vector<uint32_t>());
    if (const auto chat = greeting.find("chat"); chat != greeting.end() && chat->is_object()) {
      chat_ = {chat->value("before", ""), chat->value("answer", ""), chat->value("next", "")};
    }
    return absl::OkStatus();
  }

  absl::StatusOr<TokenizedText> EncodeWithBegins(std::string_view text) override { return Encode(text, true); }
  absl::StatusOr<std::vector<uint32_t>> Encode(std::string_view text) override {
    TRIBUTARY_ASSIGN_OR_RETURN(TokenizedText encoded, Encode(text, false));
    return std::move(encoded.tokens);
  }
  absl::StatusOr<std::string> Decode(std::span<const uint32_t> tokens) override {
    TRIBUTARY_RETURN_IF_ERROR(
        Send(Json{{"decode", std::vector<uint32_t>(tokens.begin(), tokens.end())}}.dump() + "\n"));
    TRIBUTARY_ASSIGN_OR_RETURN(const Json reply, ReadReply());
    return reply.value("text", "");
  }

 private:
  absl::StatusOr<TokenizedText> Encode(std::string_view text, bool with_begins) {
    TRIBUTARY_ASSIGN_OR_RETURN(const std::string quoted, Quoted(text));
    TRIBUTARY_RETURN_IF_ERROR(
        Send(fmt::format("{{\"encode\": {}, \"begins\": {}}}\n", quoted, with_begins ? "true" : "false")));
    TRIBUTARY_ASSIGN_OR_RETURN(const Json reply, ReadReply());
    TokenizedText encoded{.tokens = reply.value("tokens", std::vector<uint32_t>()),
                          .begins = reply.value("begins", std::vector<uint32_t>())};
    if (with_begins && encoded.begins.size() != encoded.tokens.size()) {
      return absl::InternalError(fmt::format("the tokenizer told the places of {} of {} tokens", encoded.begins.size(),
                                             encoded.tokens.size()));
    }
    return encoded;
  }

  absl::Status Gone() const {
    return absl::UnavailableError("the tokenizer's process has ended; what it said is above");
  }

  absl::Status Send(std::string_view line) {
    while (!line.empty()) {
      const ssize_t sent = send(socket_, line.data(), line.size(), MSG_NOSIGNAL);
      if (sent < 0 && errno == EINTR) continue;
      if (sent <= 0) return Gone();
      line.remove_prefix(static_cast<size_t>(sent));
    }
    return absl::OkStatus();
  }

  absl::StatusOr<Json> ReadReply() {
    size_t end = received_.find('\n');
    for (char buffer[1 << 16]; end == std::string::npos;) {
      const ssize_t count = read(socket_, buffer, sizeof(buffer));
      if (count < 0 && errno == EINTR) continue;
      if (count <= 0) return Gone();
      const size_t searched = received_.size();
      received_.append(buffer, static_cast<size_t>(count));
      end = received_.find('\n', searched);
    }
    Json reply = Json::parse(received_.substr(0, end), nullptr, false);
    received_.erase(0, end + 1);
    if (!reply.is_object()) return absl::InternalError("the tokenizer's process answered no JSON object");
    if (const auto error = reply.find("error"); error != reply.end() && error->is_string()) {
      return absl::UnavailableError(Printable(error->get<std::string>(), kMaxShownErrorBytes));
    }
    return reply;
  }

  const pid_t pid_;
  const int socket_;
  std::string received_;
  ChatFrame chat_;
  std::vector<uint32_t> prefix_;
};

std::string ScriptBesideThisBinary() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path() / "tributary-tokenizer.py";
}

}  // namespace

absl::StatusOr<std::unique_ptr<TextCodec>> MakeTokenizerProcess(const TokenizerOptions& options) {
  const std::string script = options.script.empty() ? ScriptBesideThisBinary() : options.script;
  if (access(script.c_str(), R_OK) != 0) {
    return absl::UnavailableError(
        fmt::format("cannot read '{}': {}; build it with ./dev build, and keep it beside the binaries", script,
                    std::strerror(errno)));
  }
  // A socket and no pipe, so that writing to a process that has gone is an error and no signal.
  int sockets[2];
  if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, sockets) != 0) {
    return absl::UnavailableError(fmt::format("no socket pair for the tokenizer: {}", std::strerror(errno)));
  }
  std::vector<std::string> arguments{
      options.python, "-B", script, options.folder, "--chat-template", options.use_chat_template ? "auto" : "none"};
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, sockets[1], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, sockets[1], STDOUT_FILENO);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, options.python.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(sockets[1]);
  if (error != 0) {
    close(sockets[0]);
    return absl::UnavailableError(fmt::format("cannot run '{}' for the tokenizer: {}; name a Python 3 with --python",
                                              options.python, std::strerror(error)));
  }
  auto process = std::make_unique<TokenizerProcess>(pid, sockets[0]);
  TRIBUTARY_RETURN_IF_ERROR(process->ReadGreeting());
  return process;
}

}  // namespace tributary

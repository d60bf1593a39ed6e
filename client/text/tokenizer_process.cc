#include "client/text/tokenizer_process.h"

#include <fcntl.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>
#include <utility>

#include "base/file_kind.h"
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
  bool has_chat_template() const override { return has_template_; }
  const std::vector<uint32_t>& prefix() const override { return prefix_; }

  absl::Status ReadGreeting() {
    TRIBUTARY_ASSIGN_OR_RETURN(const Json greeting, ReadReply());
    prefix_ = Tokens(greeting, "prefix");
    has_template_ = greeting.value("has_template", false);
    if (const auto frame = greeting.find("frame"); frame != greeting.end() && frame->is_object()) {
      chat_ = {frame->value("before", ""), frame->value("answer", ""), frame->value("next", "")};
    }
    return absl::OkStatus();
  }

  absl::StatusOr<TokenizedText> EncodeWithBegins(std::string_view text) override {
    TRIBUTARY_ASSIGN_OR_RETURN(const Json reply, AskToEncode(text, "begins"));
    TokenizedText encoded{.tokens = Tokens(reply, "tokens"), .begins = Tokens(reply, "begins")};
    if (encoded.begins.size() == encoded.tokens.size()) return encoded;
    return absl::InternalError(
        fmt::format("the tokenizer told the places of {} of {} tokens", encoded.begins.size(), encoded.tokens.size()));
  }
  absl::StatusOr<std::vector<uint32_t>> Encode(std::string_view text) override {
    TRIBUTARY_ASSIGN_OR_RETURN(const Json reply, AskToEncode(text, ""));
    return Tokens(reply, "tokens");
  }
  absl::StatusOr<std::vector<uint32_t>> EncodePrompt(std::string_view text) override {
    TRIBUTARY_ASSIGN_OR_RETURN(const Json reply, AskToEncode(text, "special"));
    return Tokens(reply, "tokens");
  }
  absl::StatusOr<std::string> Decode(std::span<const uint32_t> tokens) override { return AskForText("decode", tokens); }

  absl::StatusOr<ChatPrompt> EncodeChat(std::span<const ChatMessage> messages, bool may_continue) override {
    std::string list;
    for (const ChatMessage& message : messages) {
      TRIBUTARY_ASSIGN_OR_RETURN(const std::string content, Quoted(message.content));
      list += fmt::format("{}{{\"role\": \"{}\", \"content\": {}}}", list.empty() ? "" : ", ", message.role, content);
    }
    TRIBUTARY_ASSIGN_OR_RETURN(const Json reply,
                               Ask(fmt::format("{{\"chat\": [{}], \"continue\": {}}}", list, may_continue)));
    return ChatPrompt{Tokens(reply, "tokens"), reply.value("continues", false)};
  }
  absl::StatusOr<std::string> AddToAnswer(std::span<const uint32_t> tokens) override {
    return AskForText("add", tokens);
  }
  absl::StatusOr<std::string> EndAnswer() override {
    TRIBUTARY_ASSIGN_OR_RETURN(const Json reply, Ask(R"({"flush": true})"));
    return reply.value("text", "");
  }

 private:
  // Of a reply; nothing for what is no list of ids.
  static std::vector<uint32_t> Tokens(const Json& reply, const char* name) {
    std::vector<uint32_t> tokens;
    const auto list = reply.find(name);
    if (list == reply.end() || !list->is_array()) return tokens;
    for (const Json& token : *list) {
      if (token.is_number_unsigned()) tokens.push_back(token.get<uint32_t>());
    }
    return tokens;
  }

  // `also`: a member of the request that is to be true, or "".
  absl::StatusOr<Json> AskToEncode(std::string_view text, std::string_view also) {
    TRIBUTARY_ASSIGN_OR_RETURN(const std::string quoted, Quoted(text));
    return Ask(also.empty() ? fmt::format("{{\"encode\": {}}}", quoted)
                            : fmt::format("{{\"encode\": {}, \"{}\": true}}", quoted, also));
  }
  absl::StatusOr<std::string> AskForText(const char* what, std::span<const uint32_t> tokens) {
    TRIBUTARY_ASSIGN_OR_RETURN(const Json reply,
                               Ask(Json{{what, std::vector<uint32_t>(tokens.begin(), tokens.end())}}.dump()));
    return reply.value("text", "");
  }
  absl::StatusOr<Json> Ask(const std::string& request) {
    TRIBUTARY_RETURN_IF_ERROR(Send(request + "\n"));
    return ReadReply();
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
      const std::string text = Printable(error->get<std::string>(), kMaxShownErrorBytes);
      return reply.value("invalid", false) ? absl::InvalidArgumentError(text) : absl::UnavailableError(text);
    }
    return reply;
  }

  const pid_t pid_;
  const int socket_;
  std::string received_;
  ChatFrame chat_;
  bool has_template_ = false;
  std::vector<uint32_t> prefix_;
};

std::filesystem::path OwnFolder() {
  std::error_code error;
  return std::filesystem::read_symlink("/proc/self/exe", error).parent_path();
}

}  // namespace

std::string DefaultPython() {
  const std::filesystem::path folder = OwnFolder(), above = folder.parent_path();
  const std::string built = above / "python" / "bin" / "python";
  if (access(built.c_str(), X_OK) == 0) return built;
  // Installed into a virtual environment: its own Python, activated or not.
  const std::string own = folder / "python3";
  return access((above / "pyvenv.cfg").c_str(), R_OK) == 0 && access(own.c_str(), X_OK) == 0 ? own : "python3";
}

absl::StatusOr<std::unique_ptr<TextCodec>> MakeTokenizerProcess(const TokenizerOptions& options) {
  for (const char* name : {"tokenizer.json", "tokenizer.model", "tokenizer_config.json", "chat_template.jinja"}) {
    TRIBUTARY_RETURN_IF_ERROR(CheckRegularFile((std::filesystem::path(options.folder) / name).string()));
  }
  const std::string script =
      options.script.empty() ? std::string(OwnFolder() / "tributary-tokenizer.py") : options.script;
  const std::string python = options.python.empty() ? DefaultPython() : options.python;
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
  // Its standard streams are UTF-8 in any locale.
  std::vector<std::string> arguments{python, "-B",           "-X",      "utf8",
                                     script, options.folder, "--frame", options.with_frame ? "auto" : "none"};
  std::vector<char*> argv;
  for (std::string& argument : arguments) argv.push_back(argument.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, sockets[1], STDIN_FILENO);
  posix_spawn_file_actions_adddup2(&actions, sockets[1], STDOUT_FILENO);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, python.c_str(), &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  close(sockets[1]);
  if (error != 0) {
    close(sockets[0]);
    return absl::UnavailableError(fmt::format("cannot run '{}' for the tokenizer: {}; name a Python 3 with --python",
                                              python, std::strerror(error)));
  }
  auto process = std::make_unique<TokenizerProcess>(pid, sockets[0]);
  TRIBUTARY_RETURN_IF_ERROR(process->ReadGreeting());
  return process;
}

}  // namespace tributary

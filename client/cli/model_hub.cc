#include "client/cli/model_hub.h"

#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <filesystem>

#include "base/status.h"
#include "client/cli/model_dir.h"
#include "client/terminal/output.h"
#include "client/text/tokenizer_process.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr int kNoPackage = 69;

// Weights come as safetensors; the other files are small.
constexpr const char* kScript = R"(
import sys
try:
    from huggingface_hub import snapshot_download
except ImportError:
    sys.exit(69)
try:
    snapshot_download(sys.argv[1], local_dir=sys.argv[2],
                      allow_patterns=["*.json", "*.safetensors", "*.model", "*.jinja"])
except Exception as error:
    sys.exit(f"{type(error).__name__}: {error}")
)";

// The child's exit status, with its output on our stderr; -1 if it cannot be run.
int Run(const std::string& python, const std::string& id, const std::string& folder) {
  std::string arguments[] = {python, "-c", kScript, id, folder};
  char* argv[] = {arguments[0].data(), arguments[1].data(), arguments[2].data(),
                  arguments[3].data(), arguments[4].data(), nullptr};
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_adddup2(&actions, STDERR_FILENO, STDOUT_FILENO);
  pid_t pid = -1;
  const int error = posix_spawnp(&pid, python.c_str(), &actions, nullptr, argv, environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) return -1;
  int status = 0;
  while (waitpid(pid, &status, 0) < 0 && errno == EINTR) {
  }
  return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

// A dot begins no name on the Hub, so that no model's folder is another's part.
std::filesystem::path PartOf(const std::filesystem::path& folder) {
  return folder.parent_path() / fmt::format(".{}.part", folder.filename().string());
}

absl::Status MoveIntoPlace(const std::filesystem::path& part, const std::filesystem::path& folder) {
  std::error_code error;
  std::filesystem::rename(part, folder, error);
  if (!error) return absl::OkStatus();
  return absl::UnavailableError(
      fmt::format("'{}' was fetched, but cannot become '{}': {}", part.string(), folder.string(), error.message()));
}

// Earlier releases fetched into a folder that did not name the organisation.
void NoteOldFolder(const std::string& id) {
  const std::string old = "models/" + id.substr(id.find('/') + 1);
  if (!CheckModelDir(old).ok()) return;
  PrintErr("'{0}' is there, but whose model that is cannot be seen; --model {0} uses it\n", old);
}

}  // namespace

absl::Status FetchHubModel(const std::string& python, std::string& model_dir) {
  std::error_code error;
  if (!LooksLikeHubId(model_dir) || std::filesystem::exists(model_dir, error)) return absl::OkStatus();
  const std::string folder = HubFolder(model_dir);
  if (!std::filesystem::exists(folder, error)) {
    PrintErr("there is no folder '{}': looking for it on the Hugging Face Hub\n", model_dir);
    NoteOldFolder(model_dir);
    const std::filesystem::path part = PartOf(folder);
    const int status = Run(python.empty() ? DefaultPython() : python, model_dir, part.string());
    if (status == kNoPackage || status == -1) return absl::OkStatus();
    if (status != 0) {
      return absl::UnavailableError(
          fmt::format("'{}' is no folder, and could not be fetched from the Hugging Face Hub; what its client said is "
                      "above, and the next call goes on where this one ended",
                      model_dir));
    }
    TRIBUTARY_RETURN_IF_ERROR(MoveIntoPlace(part, folder));
  }
  model_dir = folder;
  return absl::OkStatus();
}

}  // namespace tributary

#include "client/eval/eval_journal.h"

#include <unistd.h>

#include <cerrno>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <span>
#include <utility>

#include "base/crc32c.h"
#include "base/status.h"
#include "fmt/format.h"

namespace tributary {
namespace {

constexpr char kMagic[8] = {'T', 'R', 'E', 'V', 'A', 'L', 'J', '1'};
constexpr long kHeaderBytes = sizeof(kMagic) + sizeof(uint64_t);

struct RecordHeader {
  uint32_t first_job = 0;
  uint32_t payload_bytes = 0;
  uint32_t crc = 0;
};

uint32_t CrcOf(const std::string& payload) { return Crc32c(std::as_bytes(std::span(payload))); }

void AppendEvent(const v1::GenerateEvent& event, std::string& payload) {
  const std::string bytes = event.SerializeAsString();
  const auto size = static_cast<uint32_t>(bytes.size());
  payload.append(reinterpret_cast<const char*>(&size), sizeof(size));
  payload += bytes;
}

bool TakeEvent(std::string_view& payload, v1::GenerateEvent& event) {
  uint32_t size = 0;
  if (payload.size() < sizeof(size)) return false;
  std::memcpy(&size, payload.data(), sizeof(size));
  payload.remove_prefix(sizeof(size));
  if (payload.size() < size || !event.ParseFromArray(payload.data(), static_cast<int>(size))) return false;
  payload.remove_prefix(size);
  return true;
}

// FNV-1a.
void Hash(std::string_view bytes, uint64_t& hash) {
  for (const char c : bytes) hash = (hash ^ static_cast<unsigned char>(c)) * 0x100000001b3;
}

}  // namespace

uint64_t PlanFingerprint(const EvalPlan& plan, const v1::StatusResponse& cluster) {
  uint64_t hash = 0xcbf29ce484222325;
  Hash(cluster.version(), hash);
  Hash(cluster.geometry().SerializeAsString(), hash);
  Hash(fmt::format("{} {}", plan.drift_tokens, plan.jobs.size()), hash);
  for (const EvalJob& job : plan.jobs) {
    if (const auto request = BuildEvalRequest(plan, job); request.ok()) Hash(request->SerializeAsString(), hash);
  }
  return hash;
}

absl::StatusOr<std::unique_ptr<EvalJournal>> EvalJournal::Open(const std::string& path, uint64_t fingerprint) {
  std::unique_ptr<EvalJournal> journal(new EvalJournal(path));
  std::error_code ignored;
  const bool is_new = !std::filesystem::exists(path, ignored) || std::filesystem::file_size(path, ignored) == 0;
  journal->file_.reset(std::fopen(path.c_str(), is_new ? "w+b" : "r+b"));
  if (journal->file_ == nullptr) return journal->CannotWrite();
  if (!is_new) {
    TRIBUTARY_RETURN_IF_ERROR(journal->ReadIndex(fingerprint));
    return journal;
  }
  std::FILE* const file = journal->file_.get();
  if (std::fwrite(kMagic, sizeof(kMagic), 1, file) != 1 ||
      std::fwrite(&fingerprint, sizeof(fingerprint), 1, file) != 1 || std::fflush(file) != 0) {
    return journal->CannotWrite();
  }
  return journal;
}

void EvalJournal::Remove(const std::string& path) { std::remove(path.c_str()); }

absl::Status EvalJournal::ReadIndex(uint64_t fingerprint) {
  char magic[sizeof(kMagic)];
  uint64_t found = 0;
  std::FILE* const file = file_.get();
  if (std::fread(magic, sizeof(magic), 1, file) != 1 || std::memcmp(magic, kMagic, sizeof(magic)) != 0 ||
      std::fread(&found, sizeof(found), 1, file) != 1) {
    return absl::InvalidArgumentError(
        fmt::format("'{}' is not the journal of an evaluation; delete it, or choose another --json", path_));
  }
  if (found != fingerprint) {
    return absl::FailedPreconditionError(fmt::format(
        "'{}' has answers of another evaluation that did not end: other settings, texts, questions, model or "
        "version. Run that one again to go on with it, drop its answers with --restart, or choose another "
        "--json",
        path_));
  }
  std::error_code ignored;
  const auto file_bytes = static_cast<long>(std::filesystem::file_size(path_, ignored));
  long end = kHeaderBytes;
  for (RecordHeader header; std::fread(&header, sizeof(header), 1, file) == 1;) {
    if (header.payload_bytes > file_bytes - end) break;
    std::string payload(header.payload_bytes, '\0');
    if (std::fread(payload.data(), 1, payload.size(), file) != payload.size() || CrcOf(payload) != header.crc) break;
    records_[header.first_job] = {end + static_cast<long>(sizeof(header)), header.payload_bytes};
    end = std::ftell(file);
  }
  std::fseek(file, end, SEEK_SET);
  if (ftruncate(fileno(file), end) != 0) return CannotWrite();
  return absl::OkStatus();
}

absl::StatusOr<std::vector<GenerateResult>> EvalJournal::Read(size_t first_job) {
  const auto record = records_.find(first_job);
  if (record == records_.end()) return absl::NotFoundError(fmt::format("'{}' has no job {}", path_, first_job));
  std::string payload(record->second.bytes, '\0');
  if (std::fseek(file_.get(), record->second.offset, SEEK_SET) != 0 ||
      std::fread(payload.data(), 1, payload.size(), file_.get()) != payload.size()) {
    return absl::UnavailableError(fmt::format("cannot read '{}': {}", path_, std::strerror(errno)));
  }
  std::vector<GenerateResult> answers;
  for (std::string_view rest = payload; !rest.empty();) {
    v1::GenerateEvent tokens, summary;
    if (!TakeEvent(rest, tokens) || !TakeEvent(rest, summary)) {
      return absl::DataLossError(fmt::format("'{}' is damaged; start anew with --restart", path_));
    }
    GenerateResult& answer = answers.emplace_back();
    tributary::Append(tokens.tokens(), &answer);
    answer.summary = summary.summary();
  }
  return answers;
}

absl::Status EvalJournal::Append(size_t first_job, const std::vector<GenerateResult>& answers) {
  std::string payload;
  for (const GenerateResult& answer : answers) {
    v1::GenerateEvent tokens, summary;
    auto& chunk = *tokens.mutable_tokens();
    chunk.mutable_tokens()->Add(answer.tokens.begin(), answer.tokens.end());
    chunk.mutable_logprobs()->Add(answer.logprobs.begin(), answer.logprobs.end());
    for (const v1::TopLogprobs& top : answer.top_logprobs) *chunk.add_top_logprobs() = top;
    *summary.mutable_summary() = answer.summary;
    AppendEvent(tokens, payload);
    AppendEvent(summary, payload);
  }
  const RecordHeader header{static_cast<uint32_t>(first_job), static_cast<uint32_t>(payload.size()), CrcOf(payload)};
  std::FILE* const file = file_.get();
  if (std::fseek(file, 0, SEEK_END) != 0) return CannotWrite();
  const long begin = std::ftell(file);
  if (std::fwrite(&header, sizeof(header), 1, file) != 1 ||
      std::fwrite(payload.data(), 1, payload.size(), file) != payload.size() || std::fflush(file) != 0) {
    return CannotWrite();
  }
  records_[first_job] = {begin + static_cast<long>(sizeof(header)), header.payload_bytes};
  return absl::OkStatus();
}

absl::Status EvalJournal::CannotWrite() const {
  return absl::UnavailableError(fmt::format("cannot write '{}': {}", path_, std::strerror(errno)));
}

}  // namespace tributary

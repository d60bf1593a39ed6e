// The answers of an evaluation that has not ended, in a file beside its results: what was answered is not asked again
// when the same plan is run once more. An answer is what the cluster said, so that everything is read from it anew.
//
// Format, little-endian: "TREVALJ1", the plan's fingerprint (u64); then records {first job u32, payload bytes u32,
// CRC-32C of the payload u32, payload}: one per chain of jobs (EndOfChain), whose answers are GenerateEvents, each
// behind its length (u32): tokens, summary, tokens, summary, ... A last record that is cut short or damaged counts as
// not written.
#pragma once

#include <cstdint>
#include <map>
#include <memory>
#include <string>
#include <vector>

#include "absl/status/statusor.h"
#include "client/eval/eval_plan.h"
#include "client/terminal/report.h"

namespace tributary {

// Of all that the answers hang on: the requests, the drift's length, the model, the cluster's version.
uint64_t PlanFingerprint(const EvalPlan& plan, const v1::StatusResponse& cluster);

// Thread-compatible.
class EvalJournal {
 public:
  // Opens what is there, or begins a new one. FAILED_PRECONDITION if it is another plan's, INVALID_ARGUMENT if it is no
  // journal, UNAVAILABLE if it cannot be written; each says what to do.
  static absl::StatusOr<std::unique_ptr<EvalJournal>> Open(const std::string& path, uint64_t fingerprint);
  // Deletes it. Nothing happens if there is none.
  static void Remove(const std::string& path);

  // By first job of their chain.
  size_t num_chains() const { return records_.size(); }
  bool Has(size_t first_job) const { return records_.contains(first_job); }
  // The answers of the chain, one per job. NOT_FOUND if there are none.
  absl::StatusOr<std::vector<GenerateResult>> Read(size_t first_job);
  // The operating system has it when this returns. UNAVAILABLE if it cannot be written.
  absl::Status Append(size_t first_job, const std::vector<GenerateResult>& answers);

 private:
  struct FileCloser {
    void operator()(std::FILE* file) const { std::fclose(file); }
  };
  struct Record {
    long offset = 0;
    uint32_t bytes = 0;
  };
  explicit EvalJournal(std::string path) : path_(std::move(path)) {}
  absl::Status ReadIndex(uint64_t fingerprint);
  absl::Status CannotWrite() const;

  const std::string path_;
  std::unique_ptr<std::FILE, FileCloser> file_;
  std::map<size_t, Record> records_;
};

}  // namespace tributary

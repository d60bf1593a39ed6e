#include "cpu_attention_service/policy/token_finder.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "attention/kv/hadamard.h"
#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/limits.h"

namespace tributary {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr uint64_t kPartTokens = 16384;
constexpr uint64_t kNoSampleTokens = 8192;  // of so few all are candidates
constexpr uint64_t kMinSampleRecords = 32;
constexpr uint64_t kMaxSampleRecords = 128;
constexpr uint64_t kRecordsPerSampled = 32;  // of a stream between the two
// Memory for more than that is given back when a scan ends: only a large max_tokens, or none, takes it.
constexpr size_t kKeptTokens = 65536;
constexpr size_t kKeptPartTokens = 4096;

// Where a thread's scan of one part puts what it finds; a scan keeps only what was found.
class ScanBuffer {
 public:
  // Room for a part of each row.
  std::span<FoundKeys> Take(uint32_t num_rows) {
    constexpr size_t kRowElements = kPartTokens + kKeyCodeRecordTokens + kSelectSlack;
    if (found_.size() < num_rows) {
      ids_ = AlignedBuffer<uint32_t>(num_rows * kRowElements);
      scores_ = AlignedBuffer<float>(num_rows * kRowElements);
      found_.resize(num_rows);
    }
    for (uint32_t row = 0; row < num_rows; ++row) {
      found_[row] = {ids_.data() + row * kRowElements, scores_.data() + row * kRowElements, 0};
    }
    return std::span(found_).first(num_rows);
  }

 private:
  AlignedBuffer<uint32_t> ids_;
  AlignedBuffer<float> scores_;
  std::vector<FoundKeys> found_;
};

// What the end of a scan uses.
struct FinishScratch {
  std::vector<uint32_t> tokens;
  std::vector<float> scores;
  std::vector<uint32_t> ids;
};

ScanBuffer& BufferOfThread() {
  thread_local ScanBuffer buffer;
  return buffer;
}

FinishScratch& FinishScratchOfThread() {
  thread_local FinishScratch scratch;
  return scratch;
}

// Looks at every record_step-th record of [begin, end), which are multiples of 64.
void Scan(const BlockSelectionFns& fns, const TokenScan& scan, std::span<const float> q, TokenRange records,
          uint32_t record_step, std::span<const float> least, std::span<FoundKeys> found) {
  ScoreKeysArgs args;
  args.layout = scan.codes->layout();
  args.record_step = record_step;
  args.q = q.data();
  args.group_size = scan.num_rows;
  args.softmax_scale = scan.softmax_scale;
  args.least = least.data();
  args.found = found.data();
  const uint64_t step = uint64_t{record_step} * kKeyCodeRecordTokens;
  for (uint64_t begin = records.begin; begin < records.end;) {
    const KeyCodes::Run run = scan.codes->RunAt(scan.stream, begin, records.end);
    args.records = run.records;
    args.num_tokens = static_cast<uint32_t>(run.num_tokens);
    args.first_id = static_cast<uint32_t>(begin);
    fns.score_keys(args);
    begin += (run.num_tokens + step - 1) / step * step;
  }
}

TokenRange WholeRecords(TokenRange local) {
  const uint64_t begin = (local.begin + kKeyCodeRecordTokens - 1) / kKeyCodeRecordTokens * kKeyCodeRecordTokens;
  return {std::min(begin, local.end), local.end};
}

uint64_t FirstRecordToken(TokenRange local) { return local.begin / kKeyCodeRecordTokens * kKeyCodeRecordTokens; }

template <typename T>
void GiveBackExcess(size_t kept, std::vector<T>* values) {
  if (values->capacity() > kept) std::vector<T>().swap(*values);
}

// NaN if any is; -inf of none. In lanes, of which compilers make vectors.
float Highest(std::span<const float> scores) {
  constexpr size_t kLanes = 16;
  float highest[kLanes];
  uint32_t num_nan[kLanes] = {};
  std::fill_n(highest, kLanes, -kInfinity);
  size_t i = 0;
  for (; i + kLanes <= scores.size(); i += kLanes) {
    for (size_t lane = 0; lane < kLanes; ++lane) {
      const float score = scores[i + lane];
      highest[lane] = score > highest[lane] ? score : highest[lane];
      num_nan[lane] += score != score ? 1 : 0;
    }
  }
  for (; i < scores.size(); ++i) {
    highest[0] = std::max(highest[0], scores[i]);
    num_nan[0] += scores[i] != scores[i] ? 1 : 0;
  }
  if (std::any_of(num_nan, num_nan + kLanes, [](uint32_t count) { return count > 0; })) {
    return std::numeric_limits<float>::quiet_NaN();
  }
  return *std::max_element(highest, highest + kLanes);
}

}  // namespace

uint32_t TokenFinder::NumParts(TokenRange local) {
  const uint64_t tokens = local.end - FirstRecordToken(local);
  return static_cast<uint32_t>(std::max<uint64_t>(1, (tokens + kPartTokens - 1) / kPartTokens));
}

void TokenFinder::Begin(const BlockSelectionKernel& kernel, const TokenScan& scan) {
  const uint32_t head_dim = scan.codes->layout().head_dim;
  TRIBUTARY_CHECK_LE(scan.num_rows, limits::kMaxGroupSize);
  TRIBUTARY_CHECK_EQ(scan.q.size(), size_t{scan.num_rows} * head_dim);
  fns_ = &kernel.fns;
  scan_ = scan;
  q_.assign(scan.q.begin(), scan.q.end());
  for (uint32_t row = 0; row < scan.num_rows; ++row) HadamardRotate(q_.data() + size_t{row} * head_dim, head_dim);
  num_parts_ = NumParts(scan.local);
  if (candidates_.size() < size_t{num_parts_} * scan.num_rows) candidates_.resize(size_t{num_parts_} * scan.num_rows);
  least_.assign(scan.num_rows, -kInfinity);
  if (scan.local.size() > kNoSampleTokens && scan.max_tokens < scan.local.size() / 8) GuessLeast();
}

// The score that a token must reach: a sample's quantile with a margin. Tokens that score high lie together, so that a
// sample of records varies more than one of tokens would.
void TokenFinder::GuessLeast() {
  const TokenRange records = WholeRecords(scan_.local);
  const uint64_t num_records = records.size() / kKeyCodeRecordTokens;
  const uint64_t wanted = std::clamp(num_records / kRecordsPerSampled, kMinSampleRecords, kMaxSampleRecords);
  const std::span<FoundKeys> sample = BufferOfThread().Take(scan_.num_rows);
  Scan(*fns_, scan_, q_, records, static_cast<uint32_t>(std::max<uint64_t>(1, num_records / wanted)), least_, sample);
  std::vector<uint32_t>& ids = FinishScratchOfThread().ids;
  for (uint32_t row = 0; row < scan_.num_rows; ++row) {
    const FoundKeys& of_row = sample[row];
    const double expected =
        static_cast<double>(of_row.count) * scan_.max_tokens / static_cast<double>(scan_.local.size());
    const auto rank = static_cast<uint32_t>(2 * expected + 6 * std::sqrt(expected) + 8);
    ids.resize(std::max<size_t>(ids.size(), rank + kSelectSlack));
    const uint32_t count = fns_->top_k(of_row.scores, of_row.count, std::min(rank, of_row.count), ids.data());
    float least = kInfinity;
    for (uint32_t i = 0; i < count; ++i) least = std::min(least, of_row.scores[ids[i]]);
    const float floor = FloorOf(row, Highest({of_row.scores, of_row.count}));
    least_[row] = floor > least ? floor : least;
  }
}

// The least score that is taken if the highest is `highest_ln`; NaN if that is.
float TokenFinder::FloorOf(uint32_t row, float highest_ln) const {
  const float known_ln = scan_.floor_ln.empty() ? -kInfinity : scan_.floor_ln[row];
  return (known_ln > highest_ln ? known_ln : highest_ln) - scan_.reach_nats;
}

void TokenFinder::ScanPart(uint32_t part) {
  const uint64_t begin = FirstRecordToken(scan_.local) + part * kPartTokens;
  const TokenRange records{begin, std::min(begin + kPartTokens, scan_.local.end)};
  const std::span<FoundKeys> found = BufferOfThread().Take(scan_.num_rows);
  if (!scan_.local.empty() && scan_.max_tokens > 0) Scan(*fns_, scan_, q_, records, 1, least_, found);
  for (uint32_t row = 0; row < scan_.num_rows; ++row) {
    const FoundKeys& of_row = found[row];
    const auto skipped =
        std::lower_bound(of_row.ids, of_row.ids + of_row.count, static_cast<uint32_t>(scan_.local.begin)) - of_row.ids;
    Candidates& candidates = candidates_[size_t{part} * scan_.num_rows + row];
    candidates.tokens.assign(of_row.ids + skipped, of_row.ids + of_row.count);
    candidates.scores.assign(of_row.scores + skipped, of_row.scores + of_row.count);
  }
}

// False if tokens that should be found may not be among the candidates.
bool TokenFinder::FinishRow(uint32_t row, std::vector<uint32_t>* found) {
  FinishScratch& scratch = FinishScratchOfThread();
  scratch.tokens.clear();
  scratch.scores.clear();
  for (uint32_t part = 0; part < num_parts_; ++part) {
    const Candidates& of_part = candidates_[size_t{part} * scan_.num_rows + row];
    scratch.tokens.insert(scratch.tokens.end(), of_part.tokens.begin(), of_part.tokens.end());
    scratch.scores.insert(scratch.scores.end(), of_part.scores.begin(), of_part.scores.end());
  }
  const float floor = FloorOf(row, Highest(scratch.scores));
  const auto num_candidates = static_cast<uint32_t>(scratch.tokens.size());
  const bool may_miss = least_[row] > -kInfinity && !(least_[row] <= floor);
  if (num_candidates < scan_.max_tokens && may_miss) return false;
  const uint32_t wanted = std::min(scan_.max_tokens, num_candidates);
  scratch.ids.resize(std::max<size_t>(scratch.ids.size(), wanted + kSelectSlack));
  const uint32_t count = fns_->top_k(scratch.scores.data(), num_candidates, wanted, scratch.ids.data());
  found->resize(count);
  size_t num_found = 0;
  for (uint32_t i = 0; i < count; ++i) {
    (*found)[num_found] = scratch.tokens[scratch.ids[i]];
    // Written so that a NaN is taken.
    num_found += scratch.scores[scratch.ids[i]] < floor ? 0 : 1;
  }
  found->resize(num_found);
  return true;
}

void TokenFinder::Finish(std::span<std::vector<uint32_t>> found) {
  TRIBUTARY_CHECK_EQ(found.size(), scan_.num_rows);
  while (true) {
    bool all = true;
    for (uint32_t row = 0; row < scan_.num_rows; ++row) {
      if (FinishRow(row, &found[row])) continue;
      all = false;
      least_[row] = -kInfinity;
    }
    if (all) break;
    for (uint32_t part = 0; part < num_parts_; ++part) ScanPart(part);
  }
  for (Candidates& candidates : candidates_) {
    GiveBackExcess(kKeptPartTokens, &candidates.tokens);
    GiveBackExcess(kKeptPartTokens, &candidates.scores);
  }
  FinishScratch& scratch = FinishScratchOfThread();
  GiveBackExcess(kKeptTokens, &scratch.tokens);
  GiveBackExcess(kKeptTokens, &scratch.scores);
  GiveBackExcess(kKeptTokens, &scratch.ids);
}

void FindTokens(const BlockSelectionKernel& kernel, const TokenScan& scan, std::span<std::vector<uint32_t>> found) {
  thread_local TokenFinder finder;
  finder.Begin(kernel, scan);
  for (uint32_t part = 0; part < TokenFinder::NumParts(scan.local); ++part) finder.ScanPart(part);
  finder.Finish(found);
}

}  // namespace tributary

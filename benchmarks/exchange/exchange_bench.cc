// The exchange of one layer's query and partial between two processes, against a raw UCX ping-pong of the same sizes in
// the same run.
//
// Ours is all that the data plane costs a decode step: allocate the query frame, lay out entries and copy q in, seal,
// send; poll, decode, verify; allocate the partial frame and seal it (the attention between is null: its bytes are left
// as they are); poll, decode, verify, check for replay, and copy out and lse into slots. Raw is two active messages.
//
// Ours is measured with payloads tagged by a CRC, as by default, without a tag, which is what the CRC's cost is taken
// from, and with a MAC. Slices of these and of three kinds of raw take turns, so that what else the machine does falls
// on all alike: raw with UCX's default settings and its own choice of protocol ("raw"), the same sent eagerly, and
// eagerly with our settings ("tuned"). A slice gives the median of its round trips; printed are the quartiles over the
// slices. The ratios are against the faster of the first two raws, and against tuned: the former is what using the data
// plane costs, the latter what its own work costs.
#include <sched.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdio>
#include <cstring>
#include <memory>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/aligned_buffer.h"
#include "base/check.h"
#include "base/clock.h"
#include "base/log.h"
#include "benchmarks/exchange/raw_ping_pong.h"
#include "fmt/format.h"
#include "transport/ucx/ucx_data_plane.h"
#include "wire/frame.h"
#include "wire/frame_builder.h"
#include "wire/frame_seal.h"
#include "wire/replay_window.h"

namespace tributary {
namespace {

constexpr SessionId kSession(7);
constexpr size_t kMaxBytes = 1 << 20;

struct Case {
  const char* model;
  uint32_t num_q_heads;
  uint32_t head_dim;
  uint32_t batch;

  size_t row_floats() const { return size_t{num_q_heads} * head_dim; }
  size_t query_bytes() const { return sizeof(QueryBody) + batch * (sizeof(QueryEntry) + row_floats() * sizeof(float)); }
  size_t partial_bytes() const {
    return sizeof(PartialBody) + batch * (sizeof(PartialEntry) + (row_floats() + num_q_heads) * sizeof(float));
  }
};
constexpr Case kCases[] = {
    {"probe", 8, 64, 1}, {"probe", 8, 64, 8}, {"llama-3-8b", 32, 128, 1}, {"llama-3-8b", 32, 128, 8}};

// Ours comes in three ways: payloads with a CRC, as by default; without a tag, to show what the CRC costs; with a MAC.
enum Way : int { kOurs = 0, kUntagged = 1, kMac = 2, kRaw = 3, kRawEager = 4, kRawTuned = 5, kNumWays = 6 };
constexpr bool IsOurs(int way) { return way <= kMac; }

// Shared by the two processes. The client writes, the server obeys.
struct Control {
  std::atomic<int> way{kOurs};
  std::atomic<int> case_idx{0};
  std::atomic<bool> stop{false};
  std::atomic<bool> server_ready{false};
};

struct Flags {
  std::vector<std::string> tls = {"posix,sysv,cma,self", "tcp,self"};
  std::string net_devices;
  int slices = 30;
  int round_trips = 200;
  std::vector<int> cpus = {0, 1};
  std::string model;  // "" = all
  int batch = 0;      // 0 = all
  bool json = false;

  bool Wants(const Case& c) const {
    return (model.empty() || model == c.model) && (batch == 0 || batch == static_cast<int>(c.batch));
  }
};

void PinTo(int cpu) {
  cpu_set_t set;
  CPU_ZERO(&set);
  CPU_SET(cpu, &set);
  if (sched_setaffinity(0, sizeof(set), &set) != 0) std::fprintf(stderr, "cannot pin to core %d\n", cpu);
}

// The tags of one process's frames, by way.
class Seals {
 public:
  explicit Seals(bool is_client)
      : crc_out_(kKeys, Out(is_client)),
        crc_in_(kKeys, Out(!is_client)),
        mac_out_(kMacKeys, Out(is_client)),
        mac_in_(kMacKeys, Out(!is_client)) {}

  void Seal(int way, FrameHeader& header, std::span<const std::byte> payload) {
    header.payload_bytes = static_cast<uint32_t>(payload.size());
    if (way == kUntagged) return SealHeader(kKeys.header, header);
    (way == kMac ? mac_out_ : crc_out_).Seal(header, payload);
  }
  bool VerifyPayload(int way, const FrameHeader& header, std::span<const std::byte> payload) {
    return way == kUntagged || (way == kMac ? mac_in_ : crc_in_).VerifyPayload(header, payload);
  }
  bool VerifyHeader(const FrameHeader& header) const { return crc_in_.VerifyHeader(header); }

 private:
  static constexpr SessionKeys kKeys{SipKey{1, 2}, std::nullopt};
  static constexpr SessionKeys kMacKeys{SipKey{1, 2}, MacKey{}};
  static FrameDirection Out(bool is_client) { return is_client ? FrameDirection::kToNode : FrameDirection::kToWorker; }

  FrameSeal crc_out_, crc_in_, mac_out_, mac_in_;
};

// Both transports of one process.
struct Ends {
  std::unique_ptr<UcxDataPlane> plane;
  std::unique_ptr<RawPingPong> raw;
  std::unique_ptr<RawPingPong> tuned;
  PeerId peer;

  RawPingPong& RawOf(int way) { return way == kRawTuned ? *tuned : *raw; }
};

void WriteAll(int fd, const std::string& text) {
  const uint32_t size = static_cast<uint32_t>(text.size());
  TRIBUTARY_CHECK(write(fd, &size, sizeof(size)) == sizeof(size));
  TRIBUTARY_CHECK(write(fd, text.data(), size) == static_cast<ssize_t>(size));
}

std::string ReadAll(int fd) {
  uint32_t size = 0;
  TRIBUTARY_CHECK(read(fd, &size, sizeof(size)) == sizeof(size));
  std::string text(size, '\0');
  for (size_t got = 0; got < size;) {
    const ssize_t n = read(fd, text.data() + got, size - got);
    TRIBUTARY_CHECK_GT(n, 0);
    got += static_cast<size_t>(n);
  }
  return text;
}

Ends Connect(const Flags& flags, const std::string& tls, int read_fd, int write_fd) {
  const UcxOptions options{.tls = tls, .net_devices = flags.net_devices};
  Ends ends;
  auto plane = MakeUcxDataPlane(options);
  auto raw = RawPingPong::Create(options, RawSettings::kUcxDefaults, kMaxBytes);
  auto tuned = RawPingPong::Create(options, RawSettings::kOurs, kMaxBytes);
  if (!plane.ok() || !raw.ok() || !tuned.ok()) {
    std::fprintf(stderr, "%s\n%s\n", plane.status().ToString().c_str(), raw.status().ToString().c_str());
    std::exit(1);
  }
  ends.plane = *std::move(plane);
  ends.raw = *std::move(raw);
  ends.tuned = *std::move(tuned);
  WriteAll(write_fd, ends.plane->info().address);
  WriteAll(write_fd, ends.raw->address());
  WriteAll(write_fd, ends.tuned->address());
  const auto peer = ends.plane->Connect(ReadAll(read_fd));
  TRIBUTARY_CHECK(peer.ok());
  ends.peer = *peer;
  TRIBUTARY_CHECK(ends.raw->Connect(ReadAll(read_fd)).ok());
  TRIBUTARY_CHECK(ends.tuned->Connect(ReadAll(read_fd)).ok());
  return ends;
}

// Answers each query with a partial of the same rows.
class NullAttention : public FrameHandler {
 public:
  NullAttention(Ends& ends, const Control& control) : ends_(ends), control_(control) {}

  void OnFrame(std::span<const std::byte> header_bytes, std::span<const std::byte> payload) override {
    FrameHeader header;
    TRIBUTARY_CHECK(DecodeHeader(header_bytes, payload.size(), &header) == FrameError::kOk);
    const int way = control_.way.load(std::memory_order_relaxed);
    TRIBUTARY_CHECK(header.session_id == kSession.value && seals_.VerifyHeader(header));
    TRIBUTARY_CHECK(replay_.Accept(header.frame_seq));
    TRIBUTARY_CHECK(seals_.VerifyPayload(way, header, payload));
    QueryView query;
    TRIBUTARY_CHECK(QueryView::Decode(payload, &query) == FrameError::kOk);
    entries_.clear();
    for (uint32_t i = 0; i < query.body().num_entries; ++i) {
      const QueryEntry entry = query.entry(i);
      entries_.push_back({.shard_id = entry.shard_id,
                          .num_q_heads = entry.num_q_heads,
                          .covered_tokens = entry.visible_end - entry.visible_begin,
                          .attended_head_tokens = entry.visible_end - entry.visible_begin,
                          .n_q = entry.n_q,
                          .num_kv_heads = 1});
    }
    auto frame = ends_.plane->AllocateFrame(PartialPayloadBytes(entries_, query.body().head_dim));
    TRIBUTARY_CHECK(frame.ok());
    PartialPayloadWriter writer(frame->payload(), query.body().num_entries, query.body().head_dim);
    for (const PartialEntry& entry : entries_) writer.Add(entry);
    FrameHeader& answer = frame->header();
    answer = header;
    answer.type = static_cast<uint8_t>(FrameType::kPartial);
    seals_.Seal(way, answer, frame->payload());
    TRIBUTARY_CHECK(ends_.plane->Send(ends_.peer, *std::move(frame), SendClass::kEager).ok());
  }
  void OnPeerError(PeerId, const absl::Status&) override { std::exit(0); }

 private:
  Ends& ends_;
  const Control& control_;
  Seals seals_{/*is_client=*/false};
  ReplayWindow replay_;
  std::vector<PartialEntry> entries_;
};

void Serve(Ends& ends, Control& control) {
  NullAttention attention(ends, control);
  control.server_ready = true;
  while (!control.stop.load(std::memory_order_relaxed)) {
    const int way = control.way.load(std::memory_order_relaxed);
    if (IsOurs(way)) {
      ends.plane->Poll(attention);
    } else if (ends.RawOf(way).Poll()) {
      ends.RawOf(way).Send(kCases[control.case_idx].partial_bytes(), way != kRaw);
    }
  }
}

// One layer's exchange as the gpu worker does it.
class Client : public FrameHandler {
 public:
  Client(Ends& ends, const Case& c)
      : ends_(ends),
        case_(c),
        q_(c.batch * c.row_floats()),
        out_(c.batch * c.row_floats()),
        lse_ln_(c.batch * c.num_q_heads) {
    for (uint32_t row = 0; row < c.batch; ++row) {
      entries_.push_back({.shard_id = row + 1, .visible_end = 10'000, .num_q_heads = c.num_q_heads, .n_q = 1});
    }
  }

  void RoundTripOurs(int way, uint64_t frame_seq) {
    way_ = way;
    auto frame = ends_.plane->AllocateFrame(QueryPayloadBytes(entries_, case_.head_dim));
    TRIBUTARY_CHECK(frame.ok());
    QueryPayloadWriter writer(frame->payload(), case_.batch, case_.head_dim, 0.125f);
    for (uint32_t row = 0; row < case_.batch; ++row) {
      const std::span<float> q = writer.Add(entries_[row]).q;
      std::memcpy(q.data(), &q_[row * case_.row_floats()], q.size_bytes());
    }
    FrameHeader& header = frame->header();
    header.type = static_cast<uint8_t>(FrameType::kQuery);
    header.session_id = kSession.value;
    header.frame_seq = frame_seq;
    seals_.Seal(way, header, frame->payload());
    answered_ = false;
    TRIBUTARY_CHECK(ends_.plane->Send(ends_.peer, *std::move(frame), SendClass::kEager).ok());
    while (!answered_) ends_.plane->Poll(*this);
  }

  void RoundTripRaw(int way) {
    RawPingPong& raw = ends_.RawOf(way);
    raw.Send(case_.query_bytes(), way != kRaw);
    while (!raw.Poll()) {
    }
  }

  void OnFrame(std::span<const std::byte> header_bytes, std::span<const std::byte> payload) override {
    FrameHeader header;
    TRIBUTARY_CHECK(DecodeHeader(header_bytes, payload.size(), &header) == FrameError::kOk);
    TRIBUTARY_CHECK(header.session_id == kSession.value && seals_.VerifyHeader(header));
    TRIBUTARY_CHECK(replay_.Accept(header.frame_seq));
    TRIBUTARY_CHECK(seals_.VerifyPayload(way_, header, payload));
    PartialFrameView partial;
    TRIBUTARY_CHECK(PartialFrameView::Decode(payload, &partial) == FrameError::kOk);
    for (uint32_t row = 0; row < partial.body().num_entries; ++row) {
      const PartialEntry entry = partial.entry(row);
      const auto out = partial.out(entry);
      const auto lse_ln = partial.lse_ln(entry);
      std::memcpy(&out_[row * case_.row_floats()], out.data(), out.size());
      std::memcpy(&lse_ln_[row * case_.num_q_heads], lse_ln.data(), lse_ln.size());
    }
    answered_ = true;
  }
  void OnPeerError(PeerId, const absl::Status& status) override {
    std::fprintf(stderr, "%s\n", status.ToString().c_str());
    std::exit(1);
  }

 private:
  Ends& ends_;
  const Case& case_;
  std::vector<QueryEntry> entries_;
  AlignedBuffer<float> q_, out_, lse_ln_;
  Seals seals_{/*is_client=*/true};
  ReplayWindow replay_;
  int way_ = kOurs;
  bool answered_ = false;
};

double MedianUs(std::vector<int64_t>& samples_ns) {
  const auto middle = samples_ns.begin() + static_cast<ptrdiff_t>(samples_ns.size() / 2);
  std::nth_element(samples_ns.begin(), middle, samples_ns.end());
  return static_cast<double>(*middle) * 1e-3;
}

struct Quartiles {
  double low = 0, median = 0, high = 0;
};

Quartiles QuartilesOf(std::vector<double> values) {
  std::sort(values.begin(), values.end());
  const auto at = [&](size_t quarter) { return values[(values.size() - 1) * quarter / 4]; };
  return {at(1), at(2), at(3)};
}

nlohmann::json RunCase(const Flags& flags, const std::string& tls, const Case& c, Ends& ends, Control& control,
                       uint64_t& frame_seq) {
  Client client(ends, c);
  const RealClock clock;
  std::vector<double> slices_us[kNumWays];
  std::vector<int64_t> samples_ns;
  for (int slice = -1; slice < flags.slices; ++slice) {  // the first is for warming up
    for (int way = 0; way < kNumWays; ++way) {
      control.way = way;
      samples_ns.clear();
      for (int i = 0; i < flags.round_trips; ++i) {
        const int64_t start_ns = clock.NowNs();
        if (IsOurs(way)) {
          client.RoundTripOurs(way, ++frame_seq);
        } else {
          client.RoundTripRaw(way);
        }
        samples_ns.push_back(clock.NowNs() - start_ns);
      }
      if (slice >= 0) slices_us[way].push_back(MedianUs(samples_ns));
    }
  }
  Quartiles us[kNumWays];
  for (int way = 0; way < kNumWays; ++way) us[way] = QuartilesOf(slices_us[way]);
  std::vector<double> ratios, tuned_ratios, crc_ratios, mac_ratios;
  for (size_t i = 0; i < slices_us[kOurs].size(); ++i) {
    const double ours_us = slices_us[kOurs][i];
    ratios.push_back(ours_us / std::min(slices_us[kRaw][i], slices_us[kRawEager][i]));
    tuned_ratios.push_back(ours_us / slices_us[kRawTuned][i]);
    crc_ratios.push_back(ours_us / slices_us[kUntagged][i]);
    mac_ratios.push_back(slices_us[kMac][i] / slices_us[kUntagged][i]);
  }
  const auto json_of = [](const Quartiles& q) { return nlohmann::json{q.low, q.median, q.high}; };
  return {{"tls", tls},
          {"model", c.model},
          {"batch", c.batch},
          {"query_bytes", c.query_bytes() + kFrameHeaderBytes},
          {"partial_bytes", c.partial_bytes() + kFrameHeaderBytes},
          {"ours_us", json_of(us[kOurs])},
          {"untagged_us", json_of(us[kUntagged])},
          {"mac_us", json_of(us[kMac])},
          {"raw_us", json_of(us[kRaw])},
          {"raw_eager_us", json_of(us[kRawEager])},
          {"raw_tuned_us", json_of(us[kRawTuned])},
          {"ratio", json_of(QuartilesOf(ratios))},
          {"ratio_to_tuned", json_of(QuartilesOf(tuned_ratios))},
          {"crc_ratio", json_of(QuartilesOf(crc_ratios))},
          {"mac_ratio", json_of(QuartilesOf(mac_ratios))}};
}

nlohmann::json RunClient(const Flags& flags, const std::string& tls, Ends& ends, Control& control) {
  nlohmann::json rows = nlohmann::json::array();
  uint64_t frame_seq = 0;
  while (!control.server_ready) std::this_thread::yield();
  for (size_t i = 0; i < std::size(kCases); ++i) {
    if (!flags.Wants(kCases[i])) continue;
    control.case_idx = static_cast<int>(i);
    rows.push_back(RunCase(flags, tls, kCases[i], ends, control, frame_seq));
  }
  return rows;
}

// Forks both processes, so that this one never touches UCX, and returns the client's rows.
nlohmann::json RunTransport(const Flags& flags, const std::string& tls) {
  void* shared = mmap(nullptr, sizeof(Control), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  TRIBUTARY_CHECK(shared != MAP_FAILED);
  auto* control = new (shared) Control;
  int to_server[2], to_client[2], result[2];
  TRIBUTARY_CHECK(pipe(to_server) == 0 && pipe(to_client) == 0 && pipe(result) == 0);
  const pid_t server = fork();
  if (server == 0) {
    PinTo(flags.cpus[1]);
    Ends ends = Connect(flags, tls, to_server[0], to_client[1]);
    Serve(ends, *control);
    std::_Exit(0);
  }
  const pid_t client = fork();
  if (client == 0) {
    close(result[0]);
    PinTo(flags.cpus[0]);
    Ends ends = Connect(flags, tls, to_client[0], to_server[1]);
    const std::string text = RunClient(flags, tls, ends, *control).dump();
    control->stop = true;
    WriteAll(result[1], text);
    std::_Exit(0);
  }
  close(result[1]);
  const std::string text = ReadAll(result[0]);
  close(result[0]);
  waitpid(client, nullptr, 0);
  waitpid(server, nullptr, 0);
  munmap(shared, sizeof(Control));
  return nlohmann::json::parse(text);
}

// Median, and the two other quartiles.
std::string Text(const nlohmann::json& quartiles) {
  return fmt::format("{:.2f} ({:.2f}..{:.2f})", quartiles[1].get<double>(), quartiles[0].get<double>(),
                     quartiles[2].get<double>());
}

void PrintTable(const nlohmann::json& rows) {
  constexpr std::string_view kRow =
      "{:<20} {:<10} {:>5} {:>8} {:>9} {:>20} {:>8} {:>8} {:>8} {:>8} {:>8} {:>18} {:>18} {:>18} {:>18}\n";
  fmt::print(kRow, "transports", "model", "batch", "query B", "partial B", "ours us", "no tag", "MAC us", "raw us",
             "eager us", "tuned us", "ours / raw", "ours / tuned", "ours / no tag", "MAC / no tag");
  for (const auto& row : rows) {
    const auto median = [&](const char* name) { return fmt::format("{:.2f}", row[name][1].get<double>()); };
    fmt::print(kRow, row["tls"].get<std::string>(), row["model"].get<std::string>(), row["batch"].get<int>(),
               row["query_bytes"].get<int>(), row["partial_bytes"].get<int>(), Text(row["ours_us"]),
               median("untagged_us"), median("mac_us"), median("raw_us"), median("raw_eager_us"),
               median("raw_tuned_us"), Text(row["ratio"]), Text(row["ratio_to_tuned"]), Text(row["crc_ratio"]),
               Text(row["mac_ratio"]));
  }
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app{"Query and partial of one layer between two processes, against a raw UCX ping-pong"};
  app.add_option("--tls", flags.tls, "UCX_TLS; may be repeated")->delimiter('\0');
  app.add_option("--net-devices", flags.net_devices, "UCX_NET_DEVICES");
  app.add_option("--slices", flags.slices, "Slices of each kind")->check(CLI::Range(1, 10'000));
  app.add_option("--round-trips", flags.round_trips, "Per slice")->check(CLI::Range(1, 1'000'000));
  app.add_option("--cpus", flags.cpus, "Cores of client and server")->expected(2)->delimiter(',');
  app.add_option("--model", flags.model, "probe or llama-3-8b; both unless given");
  app.add_option("--batch", flags.batch, "1 or 8; both unless given");
  app.add_flag("--json", flags.json, "One JSON array instead of the table");
  CLI11_PARSE(app, argc, argv);
  if (const auto status = InitLogging("exchange_bench", "warn"); !status.ok()) return 1;
  nlohmann::json rows = nlohmann::json::array();
  for (const std::string& tls : flags.tls) {
    for (auto& row : RunTransport(flags, tls)) rows.push_back(std::move(row));
  }
  if (flags.json) {
    std::printf("%s\n", rows.dump(1).c_str());
  } else {
    PrintTable(rows);
  }
  return 0;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }

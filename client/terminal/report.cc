#include "client/terminal/report.h"

#include <algorithm>
#include <cmath>

#include "base/clock.h"
#include "base/outside_text.h"
#include "fmt/format.h"
#include "proto/convert.h"

namespace tributary {
namespace {

using Json = nlohmann::ordered_json;

double DecodeTokensPerSecond(const v1::GenerateEvent::Summary& summary) {
  // The first token comes from prefill.
  if (summary.decode_s() <= 0 || summary.generated_tokens() < 2) return 0;
  return (summary.generated_tokens() - 1) / summary.decode_s();
}

Json NodesJson(const v1::GenerateEvent::Summary& summary) {
  Json nodes = Json::array();
  for (const auto& node : summary.nodes()) {
    nodes.push_back(
        {{"id", node.node_id()}, {"shards", node.shards()}, {"tokens", node.tokens()}, {"kv_bytes", node.kv_bytes()}});
  }
  return nodes;
}

std::string NameOf(v1::DType dtype) { return std::string(DTypeName(DTypeFromProto(dtype).value_or(DType::kUnset))); }

Json AttentionJson(const v1::GenerateEvent::AttentionQuality& attention) {
  Json object;
  object["remote_read_share"] = attention.remote_read_share();
  object["samples"] = attention.samples();
  object["kept_mass_mean"] = nullptr;
  object["kept_mass_min"] = nullptr;
  for (const char* error : {"output_error_mean", "output_error_p95", "output_error_max"}) object[error] = nullptr;
  if (attention.samples() == 0) return object;
  object["kept_mass_mean"] = attention.kept_mass_mean();
  object["kept_mass_min"] = attention.kept_mass_min();
  object["output_error_mean"] = attention.output_error_mean();
  object["output_error_p95"] = attention.output_error_p95();
  object["output_error_max"] = attention.output_error_max();
  object["fallback_heads"] = attention.fallback_heads();
  if (attention.heads().empty()) return object;
  Json heads = Json::array();
  for (const auto& head : attention.heads()) {
    heads.push_back({{"layer", head.layer()},
                     {"kv_head", head.kv_head()},
                     {"read_share", head.read_share()},
                     {"kept_mass_mean", head.kept_mass_mean()},
                     {"kept_mass_min", head.kept_mass_min()},
                     {"output_error_mean", head.output_error_mean()},
                     {"output_error_p95", head.output_error_p95()},
                     {"output_error_max", head.output_error_max()}});
  }
  object["heads"] = std::move(heads);
  return object;
}

void AddPlacement(const v1::GenerateEvent::Summary& summary, Json& object) {
  object["context_tokens"] = summary.context_tokens();
  object["resident_tokens"] = summary.resident_tokens();
  object["remote_tokens"] = summary.remote_tokens();
  object["attended_tokens_mean"] = summary.attended_tokens_mean();
  object["policy"] = summary.policy();
  if (summary.has_attention()) object["attention"] = AttentionJson(summary.attention());
  object["bytes_sent"] = summary.bytes_sent();
  object["bytes_received"] = summary.bytes_received();
  if (summary.remote_k_dtype() != v1::DTYPE_UNSET) {
    object["remote_k_dtype"] = NameOf(summary.remote_k_dtype());
    object["remote_v_dtype"] = NameOf(summary.remote_v_dtype());
  }
  object["nodes"] = NodesJson(summary);
  if (summary.has_kept()) {
    object["kept"] = {{"request_id", summary.kept().request_id()},
                      {"lease_s", SecondsFromNs(summary.kept().lease_ns())},
                      {"max_context_tokens", summary.kept().max_context_tokens()},
                      {"growth_tokens", summary.kept().growth_tokens()}};
  }
}

// [token, logprob] pairs of each position, likeliest first; nothing if they were not asked for.
void AddTopLogprobs(const GenerateResult& result, Json& object) {
  if (result.top_logprobs.empty()) return;
  Json positions = Json::array();
  for (const v1::TopLogprobs& top : result.top_logprobs) {
    Json pairs = Json::array();
    const int count = std::min(top.tokens_size(), top.logprobs_size());
    for (int i = 0; i < count; ++i) pairs.push_back({top.tokens(i), top.logprobs(i)});
    positions.push_back(std::move(pairs));
  }
  object["top_logprobs"] = std::move(positions);
}

// Empty for a dense run.
std::string AttentionTable(const v1::GenerateEvent::Summary& summary) {
  if (!summary.has_attention()) return "";
  const auto& attention = summary.attention();
  std::string text = fmt::format("  read of the remote KV {:.2f} %", 100 * attention.remote_read_share());
  if (attention.samples() == 0) return text + "; what it kept was not measured\n";
  text += fmt::format("; kept of its softmax mass {:.2f} % (least {:.2f} %), measured in {} {}\n",
                      100 * attention.kept_mass_mean(), 100 * attention.kept_mass_min(), attention.samples(),
                      attention.samples() == 1 ? "step" : "steps");
  text += fmt::format("  output error {:.2g} (95 % of heads and steps {:.2g}, worst {:.2g})\n",
                      attention.output_error_mean(), attention.output_error_p95(), attention.output_error_max());
  if (attention.fallback_heads() > 0) {
    text +=
        fmt::format("  {} heads kept too little or were too wrong, and read everything\n", attention.fallback_heads());
  }
  for (const auto& head : attention.heads()) {
    text += fmt::format(
        "    layer {:>3} KV head {:>3}   read {:>6.2f} %   kept {:>6.2f} % (least {:>6.2f} %)   error {:>7.2g} (worst "
        "{:>7.2g})\n",
        head.layer(), head.kv_head(), 100 * head.read_share(), 100 * head.kept_mass_mean(), 100 * head.kept_mass_min(),
        head.output_error_mean(), head.output_error_max());
  }
  return text;
}

std::string_view RoleName(v1::NodeRole role) {
  switch (role) {
    case v1::NODE_ROLE_GPU_WORKER:
      return "gpu worker";
    case v1::NODE_ROLE_CPU_ATTENTION:
      return "cpu attention";
    default:
      return "unknown";
  }
}

double Percent(uint64_t part, uint64_t whole) {
  return whole == 0 ? 0 : 100.0 * static_cast<double>(part) / static_cast<double>(whole);
}

}  // namespace

double MeanNll(const GenerateResult& result) {
  if (result.logprobs.empty()) return 0;
  double sum = 0;
  for (const float logprob : result.logprobs) sum -= logprob;
  return sum / static_cast<double>(result.logprobs.size());
}

void Append(const v1::GenerateEvent::TokenChunk& chunk, GenerateResult* result) {
  result->tokens.insert(result->tokens.end(), chunk.tokens().begin(), chunk.tokens().end());
  result->logprobs.insert(result->logprobs.end(), chunk.logprobs().begin(), chunk.logprobs().end());
  result->top_logprobs.insert(result->top_logprobs.end(), chunk.top_logprobs().begin(), chunk.top_logprobs().end());
}

std::string FinishReason(const GenerateResult& result) {
  return result.stopped_by.empty() ? result.summary.finish_reason() : std::string("stop");
}

Json GenerateJson(const GenerateResult& result) {
  const auto& summary = result.summary;
  Json object;
  if (result.stopped_by.empty()) object["prompt_tokens"] = summary.prompt_tokens();
  object["tokens"] = result.tokens;
  object["text"] = nullptr;
  if (result.has_text) object["text"] = result.text;
  object["finish_reason"] = FinishReason(result);
  if (result.stopped_by.empty()) {
    object["ttft_s"] = summary.ttft_s();
    object["decode_tokens_per_s"] = DecodeTokensPerSecond(summary);
    AddPlacement(summary, object);
    object["queue_s"] = summary.queue_s();
    object["prefill_s"] = summary.prefill_s();
    object["decode_s"] = summary.decode_s();
    Json stages = Json::object();
    for (const auto& stage : summary.stages()) stages[stage.stage()] = stage.seconds();
    object["step_stages_s"] = std::move(stages);
  } else {
    object["stop_string"] = result.stopped_by;
  }
  object["logprobs"] = result.logprobs;
  AddTopLogprobs(result, object);
  return object;
}

Json ErrorJson(const absl::Status& status) {
  Json object;
  object["error"] = {{"code", absl::StatusCodeToString(status.code())}, {"message", std::string(status.message())}};
  return object;
}

Json ScoreJson(const GenerateResult& result) {
  const double nll = MeanNll(result);
  Json object;
  object["nll_mean"] = nll;
  object["tokens"] = result.logprobs.size();
  object["perplexity"] = std::exp(nll);
  object["prompt_tokens"] = result.summary.prompt_tokens();
  AddPlacement(result.summary, object);
  object["prefill_s"] = result.summary.prefill_s();
  object["decode_s"] = result.summary.decode_s();
  AddTopLogprobs(result, object);
  return object;
}

Json StatusJson(const v1::StatusResponse& status) {
  Json object;
  object["version"] = status.version();
  object["membership_epoch"] = status.membership_epoch();
  object["model"] = status.geometry().model_name();
  object["vocab_size"] = status.geometry().vocab_size();
  object["requests_running"] = status.requests_running();
  object["requests_waiting"] = status.requests_waiting();
  object["requests_finished"] = status.requests_finished();
  object["requests_failed"] = status.requests_failed();
  Json nodes = Json::array();
  for (const auto& node : status.nodes()) {
    nodes.push_back({{"id", node.endpoint().node_id()},
                     {"role", node.role() == v1::NODE_ROLE_GPU_WORKER ? "gpu_worker" : "cpu_attention"},
                     {"state", node.state()},
                     {"incarnation", fmt::format("{}", node.endpoint().incarnation())},
                     {"address", node.endpoint().control_address()},
                     {"metrics", node.metrics_address()},
                     {"capacity_bytes", node.capacity_bytes()},
                     {"free_bytes", node.free_bytes()},
                     {"shards", node.shards()},
                     {"sequences", node.sequences()},
                     {"heartbeat_age_s", node.heartbeat_age_s()}});
  }
  object["nodes"] = std::move(nodes);
  Json kept_sequences = Json::array();
  for (const auto& kept : status.kept_sequences()) {
    kept_sequences.push_back({{"request_id", kept.request_id()},
                              {"sequence_id", fmt::format("{}", kept.sequence_id())},
                              {"worker", kept.worker_id()},
                              {"lease_left_s", kept.lease_left_s()},
                              {"context_tokens", kept.context_tokens()},
                              {"max_context_tokens", kept.max_context_tokens()},
                              {"resident_bytes", kept.resident_bytes()},
                              {"shard_bytes", kept.shard_bytes()}});
  }
  object["kept_sequences"] = std::move(kept_sequences);
  return object;
}

std::string DumpJson(const Json& object) { return object.dump(-1, ' ', false, Json::error_handler_t::replace); }

std::string SummaryTable(const GenerateResult& result) {
  const v1::GenerateEvent::Summary& summary = result.summary;
  if (!result.stopped_by.empty()) {
    return fmt::format(
        "a stop string ended the answer after {} tokens; its sequence was let go of then, untold where it "
        "lay\n",
        FormatCount(result.tokens.size()));
  }
  const uint64_t context = summary.context_tokens();
  std::string text = fmt::format("where the context lay ({} tokens)\n", FormatCount(context));
  const auto row = [&](std::string_view holder, std::string_view kind, uint64_t tokens, const std::string& more) {
    text += fmt::format("  {:<16} {:<9} {:>10} tokens {:>6.1f} %{}\n", holder, kind, FormatCount(tokens),
                        Percent(tokens, context), more);
  };
  row("gpu worker", "resident", summary.resident_tokens(), "");
  for (const auto& node : summary.nodes()) {
    row(Printable(node.node_id()), "remote", node.tokens(),
        fmt::format("   {} {}, {}", node.shards(), node.shards() == 1 ? "shard" : "shards",
                    FormatBytes(node.kv_bytes())));
  }
  if (summary.remote_k_dtype() != v1::DTYPE_UNSET) {
    text += fmt::format("  stored remotely as K {}, V {}\n", NameOf(summary.remote_k_dtype()),
                        NameOf(summary.remote_v_dtype()));
  }
  text += fmt::format("  attended per token {:.1f} ({}); {} sent, {} received\n", summary.attended_tokens_mean(),
                      summary.policy(), FormatBytes(summary.bytes_sent()), FormatBytes(summary.bytes_received()));
  text += AttentionTable(summary);
  text += "how long it took\n";
  text += fmt::format("  {:<16} {:>10}\n", "queue", FormatSeconds(summary.queue_s()));
  text += fmt::format("  {:<16} {:>10}   {} tokens\n", "prefill", FormatSeconds(summary.prefill_s()),
                      FormatCount(summary.prompt_tokens()));
  text += fmt::format("  {:<16} {:>10}\n", "first token", FormatSeconds(summary.ttft_s()));
  text += fmt::format("  {:<16} {:>10}   {} tokens, {:.1f} tokens/s\n", "decode", FormatSeconds(summary.decode_s()),
                      FormatCount(summary.generated_tokens()), DecodeTokensPerSecond(summary));
  for (const auto& stage : summary.stages()) {
    text += fmt::format("    {:<18} {:>8}   per step\n", stage.stage(), FormatSeconds(stage.seconds()));
  }
  if (summary.has_kept()) {
    const auto& kept = summary.kept();
    text +=
        fmt::format("kept for {}: --continue {} may add {} tokens of prompts and answers ({} of {} used)\n",
                    FormatSeconds(SecondsFromNs(kept.lease_ns())), Printable(kept.request_id()),
                    FormatCount(kept.growth_tokens()), FormatCount(context), FormatCount(kept.max_context_tokens()));
  }
  return text;
}

std::string StatusTable(const v1::StatusResponse& status) {
  std::string text = fmt::format(
      "tributary {}, membership epoch {}, model {}\n", Printable(status.version()), status.membership_epoch(),
      status.geometry().model_name().empty() ? "-" : Printable(status.geometry().model_name()));
  text += fmt::format("requests: {} running, {} waiting, {} finished, {} failed\n", status.requests_running(),
                      status.requests_waiting(), status.requests_finished(), status.requests_failed());
  text += fmt::format("{:<16} {:<14} {:<9} {:>10} {:>10} {:>7} {:>5} {:>10}  {}\n", "node", "role", "state", "free",
                      "capacity", "shards", "seqs", "heartbeat", "address");
  for (const auto& node : status.nodes()) {
    text +=
        fmt::format("{:<16} {:<14} {:<9} {:>10} {:>10} {:>7} {:>5} {:>10}  {}\n", Printable(node.endpoint().node_id()),
                    RoleName(node.role()), Printable(node.state()), FormatBytes(node.free_bytes()),
                    FormatBytes(node.capacity_bytes()), node.shards(), node.sequences(),
                    FormatSeconds(node.heartbeat_age_s()), Printable(node.endpoint().control_address()));
  }
  if (status.kept_sequences().empty()) return text;
  text += fmt::format("{:<24} {:<16} {:>10} {:>21} {:>10} {:>10}\n", "kept sequence", "worker", "lease left", "tokens",
                      "resident", "shards");
  for (const auto& kept : status.kept_sequences()) {
    const std::string tokens =
        fmt::format("{} of {}", FormatCount(kept.context_tokens()), FormatCount(kept.max_context_tokens()));
    text += fmt::format("{:<24} {:<16} {:>10} {:>21} {:>10} {:>10}\n", Printable(kept.request_id()),
                        Printable(kept.worker_id()), FormatSeconds(kept.lease_left_s()), tokens,
                        FormatBytes(kept.resident_bytes()), FormatBytes(kept.shard_bytes()));
  }
  return text;
}

std::string FormatBytes(uint64_t bytes) {
  constexpr const char* kUnits[] = {"B", "KiB", "MiB", "GiB", "TiB"};
  auto value = static_cast<double>(bytes);
  size_t unit = 0;
  while (value >= 1024 && unit + 1 < std::size(kUnits)) {
    value /= 1024;
    ++unit;
  }
  return unit == 0 ? fmt::format("{} B", bytes) : fmt::format("{:.1f} {}", value, kUnits[unit]);
}

std::string FormatCount(uint64_t count) {
  std::string digits = fmt::format("{}", count);
  for (size_t place = digits.size(); place > 3;) {
    place -= 3;
    digits.insert(place, 1, ',');
  }
  return digits;
}

std::string FormatSeconds(double seconds) {
  if (seconds >= 1) return fmt::format("{:.2f} s", seconds);
  if (seconds >= 1e-3) return fmt::format("{:.1f} ms", seconds * 1e3);
  return fmt::format("{:.0f} us", seconds * 1e6);
}

}  // namespace tributary

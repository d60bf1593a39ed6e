// What rounding a model's matrices costs: a text is fed token by token to the host device with the weights as stored
// and to one with rounded weights; KL of the next-token distributions, and both perplexities. KV is f32 in both.
//
//   weight_dtype_error --model models/smollm2 --tokens ids.txt [--weight-dtype int8]
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <fstream>
#include <memory>
#include <string>
#include <vector>

#include "CLI/CLI.hpp"
#include "base/thread_pool.h"
#include "fmt/format.h"
#include "gpu_worker/device/host/host_device.h"
#include "tests/testutil/device_driver.h"

namespace tributary {
namespace {

struct Flags {
  std::string model;
  std::string tokens_file;
  std::string weight_dtype = "int8";
  int threads = static_cast<int>(AllowedCpus().size());
};

std::vector<double> LogSoftmax(std::span<const float> logits) {
  const double max = *std::max_element(logits.begin(), logits.end());
  double sum = 0;
  for (const float logit : logits) sum += std::exp(logit - max);
  std::vector<double> logprobs;
  for (const float logit : logits) logprobs.push_back(logit - max - std::log(sum));
  return logprobs;
}

// Sums over the text.
struct Totals {
  double kl = 0;
  double worst_kl = 0;
  double nll[2] = {};  // as stored, rounded
  size_t same_top = 0;
  size_t count = 0;

  void Add(const std::vector<double>& stored, const std::vector<double>& rounded, uint32_t next) {
    double step_kl = 0;
    for (size_t i = 0; i < stored.size(); ++i) step_kl += std::exp(stored[i]) * (stored[i] - rounded[i]);
    kl += step_kl;
    worst_kl = std::max(worst_kl, step_kl);
    nll[0] -= stored[next];
    nll[1] -= rounded[next];
    same_top += std::max_element(stored.begin(), stored.end()) - stored.begin() ==
                std::max_element(rounded.begin(), rounded.end()) - rounded.begin();
    ++count;
  }
};

absl::Status Run(const Flags& flags) {
  const auto weights = LoadModelWeights(flags.model);
  const auto weight_dtype = ParseWeightDType(flags.weight_dtype);
  for (const absl::Status& status : {weights.status(), weight_dtype.status()}) {
    if (!status.ok()) return status;
  }
  const ModelConfig& config = (*weights)->config;
  std::ifstream file(flags.tokens_file);
  std::vector<uint32_t> tokens;
  for (uint32_t token = 0; file >> token;) tokens.push_back(token);
  if (tokens.size() < 2) {
    return absl::InvalidArgumentError(
        fmt::format("{} has {} token ids; it must have at least 2", flags.tokens_file, tokens.size()));
  }
  const uint64_t kv_bytes = uint64_t{2} * config.num_layers * config.attention.num_kv_heads *
                            config.attention.head_dim * sizeof(float) * (tokens.size() + 1);
  const DeviceLimits limits{.max_batch = 1, .resident_pool_bytes = kv_bytes + (1 << 20), .max_prefill_tokens = 1};
  std::unique_ptr<Device> devices[2];
  ResidentId residents[2];
  for (size_t i = 0; i < 2; ++i) {
    auto device = MakeHostDevice(*weights, limits, flags.threads, i == 0 ? WeightDType::kStored : *weight_dtype);
    if (!device.ok()) return device.status();
    devices[i] = *std::move(device);
    const auto resident = devices[i]->ReserveResident({static_cast<uint32_t>(tokens.size()), DType::kF32});
    if (!resident.ok()) return resident.status();
    residents[i] = *resident;
  }
  Totals totals;
  for (uint32_t pos = 0; pos + 1 < tokens.size(); ++pos) {
    std::vector<double> logprobs[2];
    for (size_t i = 0; i < 2; ++i) {
      const DecodeRow row = ContiguousRow(residents[i], tokens[pos], pos);
      logprobs[i] = LogSoftmax(DecodeResident(*devices[i], config.num_layers, {&row, 1}));
    }
    totals.Add(logprobs[0], logprobs[1], tokens[pos + 1]);
  }
  const auto count = static_cast<double>(totals.count);
  fmt::print(
      "{} tokens: perplexity {:.4f} as stored, {:.4f} in {}; KL {:.2e} nats, at worst {:.2e}; same top-1 {:.2f} %\n",
      totals.count, std::exp(totals.nll[0] / count), std::exp(totals.nll[1] / count), flags.weight_dtype,
      totals.kl / count, totals.worst_kl, 100 * static_cast<double>(totals.same_top) / count);
  return absl::OkStatus();
}

int Main(int argc, char** argv) {
  Flags flags;
  CLI::App app("What rounding a model's matrices costs");
  app.add_option("--model", flags.model, "folder with config.json and *.safetensors")->required();
  app.add_option("--tokens", flags.tokens_file, "text file of token ids, separated by blanks")->required();
  app.add_option("--weight-dtype", flags.weight_dtype, "stored or int8")->capture_default_str();
  app.add_option("--threads", flags.threads, "threads, the caller included");
  CLI11_PARSE(app, argc, argv);
  const absl::Status status = Run(flags);
  if (status.ok()) return 0;
  fmt::print(stderr, "{}\n", status.ToString());
  return 1;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }

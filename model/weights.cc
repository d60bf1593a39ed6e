#include "model/weights.h"

#include <algorithm>
#include <set>
#include <string>

#include "absl/status/status.h"
#include "base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/weight_slots.h"

namespace tributary {
namespace {

absl::Status Fill(const Checkpoint& checkpoint, const WeightSlot& slot) {
  TRIBUTARY_ASSIGN_OR_RETURN(const Checkpoint::Located found, checkpoint.Find(slot.name));
  const TensorView& tensor = *found.tensor;
  if (tensor.shape != slot.shape) {
    return absl::InvalidArgumentError(fmt::format("{}: tensor '{}' is {}, but config.json implies [{}]",
                                                  found.file->path().string(), slot.name, Describe(tensor),
                                                  fmt::join(slot.shape, ", ")));
  }
  if (!IsValidDType(ToDType(tensor.type))) {
    return absl::InvalidArgumentError(fmt::format("{}: tensor '{}' is {}; weights must be F32, BF16 or F16",
                                                  found.file->path().string(), slot.name, Describe(tensor)));
  }
  *slot.destination = &tensor;
  return absl::OkStatus();
}

constexpr const char* kHeadName = "lm_head.weight";

// Tensors that old or tied checkpoints carry and that hold nothing of their own.
bool IsRedundant(const ModelConfig& config, const std::string& name) {
  return name.ends_with("rotary_emb.inv_freq") || (config.tie_word_embeddings && name == kHeadName);
}

// A config may call the head tied although the file has another one: then the file is right, as Hugging Face has it.
absl::Status FindOwnHead(ModelWeights& weights) {
  if (!weights.config.tie_word_embeddings || !weights.checkpoint.Find(kHeadName).ok()) return absl::OkStatus();
  const TensorView* head = nullptr;
  TRIBUTARY_RETURN_IF_ERROR(Fill(weights.checkpoint, {kHeadName, weights.embedding->shape, &head}));
  const TensorView& embedding = *weights.embedding;
  const bool same = head->type == embedding.type &&
                    std::equal(head->bytes.begin(), head->bytes.end(), embedding.bytes.begin(), embedding.bytes.end());
  if (same) return absl::OkStatus();
  weights.config.tie_word_embeddings = false;
  weights.lm_head = head;
  return absl::OkStatus();
}

absl::Status CheckNoSurplus(const ModelWeights& weights, const std::vector<WeightSlot>& slots) {
  std::set<std::string_view> known;
  for (const WeightSlot& slot : slots) known.insert(slot.name);
  if (!weights.config.tie_word_embeddings) known.insert(kHeadName);
  for (const auto& [name, located] : weights.checkpoint.tensors()) {
    if (known.contains(name) || IsRedundant(weights.config, name)) continue;
    return absl::InvalidArgumentError(
        fmt::format("{}: tensor '{}' has no place in the architecture that config.json describes ({} layers)",
                    located.file->path().string(), name, weights.config.num_layers));
  }
  return absl::OkStatus();
}

}  // namespace

uint64_t ModelWeights::num_parameters() const {
  ModelWeights shapes;
  shapes.config = config;
  uint64_t count = 0;
  for (const WeightSlot& slot : AllWeightSlots(shapes)) {
    uint64_t elements = 1;
    for (const uint64_t size : slot.shape) elements *= size;
    count += elements;
  }
  return count;
}

absl::StatusOr<std::shared_ptr<const ModelWeights>> LoadModelWeights(const std::filesystem::path& model_dir) {
  auto weights = std::make_shared<ModelWeights>();
  TRIBUTARY_ASSIGN_OR_RETURN(weights->config, LoadModelConfig(model_dir));
  TRIBUTARY_ASSIGN_OR_RETURN(weights->checkpoint, Checkpoint::Open(model_dir));
  const std::vector<WeightSlot> slots = AllWeightSlots(*weights);
  for (const WeightSlot& slot : slots) TRIBUTARY_RETURN_IF_ERROR(Fill(weights->checkpoint, slot));
  TRIBUTARY_RETURN_IF_ERROR(FindOwnHead(*weights));
  TRIBUTARY_RETURN_IF_ERROR(CheckNoSurplus(*weights, slots));
  FinishWeights(*weights);
  return std::shared_ptr<const ModelWeights>(std::move(weights));
}

}  // namespace tributary

// The table of model families: what a config may leave out, and what each family does otherwise than Llama. For
// model_config.cc.
#pragma once

#include <span>
#include <string>
#include <string_view>

#include "absl/status/status.h"
#include "model/config_fields.h"
#include "model/model_config.h"

namespace tributary {

// Which layers see a window only, if "layer_types" does not say it.
enum class SlidingRule : uint8_t {
  kNever,
  kAll,                    // every layer, when "sliding_window" is a number
  kFromMaxWindowLayers,    // with "use_sliding_window": layers from "max_window_layers" on
  kAllIfUsed,              // with "use_sliding_window": every layer
  kNoRopeLayersIfUsed,     // with "use_sliding_window": layers without RoPE
  kAllButEachPatternLast,  // of each "sliding_window_pattern" layers the last one sees everything
  kEachSecond,             // the first, the third, ...
};

struct FamilyRow {
  std::string_view model_type;
  std::string_view architecture;
  ModelFamily family;
  // The defaults of Hugging Face's config class. 0: there is no default that fits every size of model.
  bool kv_heads_default_to_query_heads = false;
  uint32_t head_dim = 0;  // 0: hidden_size / heads
  uint32_t max_position_embeddings = 2048;
  double rope_theta = 10000.0;
  double rotary_share = 1.0;                  // of a head's elements, those that turn
  bool may_turn_partly = false;               // "partial_rotary_factor" may be below 1
  const RopeParameters& (*rope)() = nullptr;  // of a file that says nothing of scaling; null: the default type
  double rms_norm_eps = 1e-6;
  bool tie_word_embeddings = false;
  bool attention_bias = false;
  SlidingRule sliding = SlidingRule::kNever;
  uint32_t sliding_window = 0;  // 0: none
  // What is the family's own, read after all that families have in common; null: nothing.
  absl::Status (*read)(const ConfigFields& fields, ModelConfig& config) = nullptr;
};

std::span<const FamilyRow> ModelFamilies();
// "llama, mistral, ..." for messages.
std::string ModelFamilyNames();

}  // namespace tributary

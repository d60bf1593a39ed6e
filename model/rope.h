// Rotary position embedding as Hugging Face's configs describe it: a base, and a way of scaling it to longer contexts.
#pragma once

#include <cstdint>
#include <vector>

#include "absl/status/status.h"
#include "model/config_fields.h"

namespace tributary {

enum class RopeType : uint8_t { kDefault, kLinear, kDynamic, kLlama3, kYarn, kLongrope };

// The first rotary_dim elements of a head turn: pair i is (x[i], x[i + rotary_dim / 2]), or (x[2 i], x[2 i + 1]).
// Fields that the type has no use for keep their defaults.
struct RopeParameters {
  RopeType type = RopeType::kDefault;
  double theta = 10000.0;
  double factor = 1.0;            // linear, dynamic, llama3, yarn
  double low_freq_factor = 1.0;   // llama3
  double high_freq_factor = 1.0;  // llama3
  double beta_fast = 32.0;        // yarn
  double beta_slow = 1.0;         // yarn
  bool truncate = true;           // yarn
  // Multiplies cosine and sine: yarn and longrope.
  double attention_factor = 1.0;
  // Context that the model was trained with before it was scaled; for dynamic and longrope the length from which on
  // frequencies are others.
  uint32_t original_max_position_embeddings = 0;
  std::vector<float> short_factor;  // longrope: [rotary_dim / 2]
  std::vector<float> long_factor;

  // The frequencies of a token depend on how long its context is.
  bool follows_length() const { return type == RopeType::kDynamic || type == RopeType::kLongrope; }
};

// What a model's other fields say that an object of scaling parameters may leave out.
struct RopeContext {
  uint32_t rotary_dim = 0;  // of a head's elements, those that turn
  double rotary_share = 1;  // of a head's elements, too
  uint32_t max_position_embeddings = 0;
  uint32_t original_max_position_embeddings = 0;  // of the config itself (Phi-3); 0: absent
};

// Reads the type and its parameters from a "rope_scaling" or "rope_parameters" object, which may also hold rope_theta.
// An empty object, or one with rope_theta alone, is the default type. UNIMPLEMENTED for an unknown type or a
// rotation of another share, INVALID_ARGUMENT for values out of range.
absl::Status ReadRopeParameters(const ConfigFields& fields, const RopeContext& context, RopeParameters& rope);

// Inverse frequencies of a token whose context, itself included, has `context_tokens` tokens: [rotary_dim / 2],
// computed in f32 as Hugging Face does, because at position 16k the last bit of a frequency moves an angle by 1e-3. A
// prompt's tokens all have the prompt's length, a decoded token its position + 1.
std::vector<float> RopeInverseFrequencies(const RopeParameters& rope, uint32_t rotary_dim, uint64_t context_tokens);

}  // namespace tributary

#include "model/model_identity.h"

#include "base/fnv1a.h"
#include "fmt/format.h"

namespace tributary {

std::string ModelIdentity(const ModelWeights& weights) {
  const ModelConfig& config = weights.config;
  const AttentionShape& shape = config.attention;
  uint64_t hash = Fnv1a(fmt::format("{},{},{},{},{},{}", config.num_layers, shape.num_q_heads, shape.num_kv_heads,
                                    shape.head_dim, config.hidden_size, config.vocab_size));
  for (const LayerWeights& layer : weights.layers) {
    const TensorView* norm = layer.attention_norm == nullptr ? layer.attention_post_norm : layer.attention_norm;
    hash = Fnv1a(norm->bytes, hash);
  }
  return fmt::format("{:016x}", Fnv1a(weights.final_norm->bytes, hash));
}

}  // namespace tributary

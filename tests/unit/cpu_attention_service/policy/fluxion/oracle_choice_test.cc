#include "cpu_attention_service/policy/fluxion/oracle_choice.h"

#include <algorithm>
#include <cmath>

#include "tests/unit/cpu_attention_service/policy/fluxion/fluxion_fixture.h"

namespace tributary {
namespace {

class OracleChoiceTest : public testing::FluxionFixture {
 protected:
  // The attention of one query head over the resident partial (0 with this lse) and some tokens, by its definition.
  std::vector<double> Output(uint32_t q_head, float resident_lse_ln, const std::vector<bool>& tokens) {
    const auto* const k = reinterpret_cast<const float*>(kv_.k.data());
    const auto* const v = reinterpret_cast<const float*>(kv_.v.data());
    double sum = std::exp(double{resident_lse_ln});
    std::vector<double> out(kShape.head_dim);
    for (size_t t = 0; t < tokens.size(); ++t) {
      if (!tokens[t]) continue;
      const size_t at = (t * kShape.num_kv_heads + q_head / kGroup) * kShape.head_dim;
      double score = 0;
      for (uint32_t d = 0; d < kShape.head_dim; ++d)
        score += double{q_[q_head * kShape.head_dim + d]} * double{k[at + d]};
      const double weight = std::exp(score * double{kScale});
      sum += weight;
      for (uint32_t d = 0; d < kShape.head_dim; ++d) out[d] += weight * double{v[at + d]};
    }
    for (double& value : out) value /= sum;
    return out;
  }
  static double Distance(const std::vector<double>& a, const std::vector<double>& b) {
    double sum = 0;
    for (size_t d = 0; d < a.size(); ++d) sum += (a[d] - b[d]) * (a[d] - b[d]);
    return std::sqrt(sum);
  }
};

TEST_F(OracleChoiceTest, ReadsTheFewestBlocksThatKeepToTheError) {
  bool read_less = false;
  for (const double target : {0.02, 0.1, 0.3}) {
    for (const uint32_t block_tokens : {16u, 64u}) {
      constexpr uint64_t kTokens = 500;
      Open({{"budget_mode", "oracle"}, {"select_block_tokens", block_tokens}, {"target_output_error", target}},
           kTokens);
      StoreAll();
      const float resident_lse_ln = 4;
      SetSection(resident_lse_ln, true);
      const TokenRange local{0, RandomInt<uint64_t>(random_, 300, kTokens)};
      const ReadPlan& plan = Ask(Request(local));
      HeadChoice choice(&block_selection::Best(), kGroup, kTokens / 16 + 2);
      std::vector<bool> all(local.end, true);
      double largest = 0;
      for (uint32_t h = 0; h < kShape.num_q_heads; ++h) {
        largest = std::max(largest, Distance(Output(h, resident_lse_ln, all), std::vector<double>(kShape.head_dim)));
      }
      for (uint32_t h = 0; h < kShape.num_q_heads; ++h) {
        choice.Score({.summaries = shard_->FindSummaries(FluxionSummary(block_tokens)),
                      .stream = shard_->SummaryStream(kLayer, h / kGroup),
                      .local = local,
                      .q = std::span(q_).subspan(h / kGroup * kGroup * kShape.head_dim, kGroup * kShape.head_dim),
                      .softmax_scale = kScale});
        const std::vector<double> full = Output(h, resident_lse_ln, all);
        uint64_t expected = 0;
        for (uint32_t k = 0; k <= choice.num_whole_blocks(); ++k) {
          choice.ChooseBest(h % kGroup, k);
          std::vector<bool> tokens(local.end, false);
          for (const uint32_t id : choice.chosen(h % kGroup)) {
            for (uint64_t t = id * block_tokens; t < std::min<uint64_t>((id + 1) * block_tokens, local.end); ++t) {
              tokens[t] = true;
            }
          }
          expected = static_cast<uint64_t>(std::count(tokens.begin(), tokens.end(), true));
          if (Distance(Output(h, resident_lse_ln, tokens), full) <= target * largest) break;
        }
        const HeadRead& read = plan.answer[h / kGroup];
        if (!read.tokens.empty()) continue;  // the group's heads together need everything
        uint64_t seen = 0;
        for (size_t i = 0; i < read.pieces.pieces.size(); ++i) {
          seen += static_cast<uint64_t>(std::popcount(read.pieces.row_masks[i * kGroup + h % kGroup]));
        }
        EXPECT_EQ(seen, expected) << "head " << h << " target " << target;
        read_less |= seen < local.size();
      }
    }
  }
  EXPECT_TRUE(read_less);
}

}  // namespace
}  // namespace tributary

#include "client/terminal/report.h"

#include <cmath>

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;
using ::testing::Not;

GenerateResult Example() {
  GenerateResult result;
  result.tokens = {'h', 'i', 0xff};
  result.logprobs = {-1.0f, -2.0f, -3.0f};
  result.has_text = true;
  result.text = "hi\xff";
  auto& summary = result.summary;
  summary.set_finish_reason("length");
  summary.set_prompt_tokens(8192);
  summary.set_generated_tokens(3);
  summary.set_ttft_s(1.5);
  summary.set_prefill_s(1.25);
  summary.set_decode_s(0.5);
  summary.set_context_tokens(8195);
  summary.set_resident_tokens(1091);
  summary.set_remote_tokens(7104);
  summary.set_attended_tokens_mean(8193.5);
  summary.set_policy("dense");
  summary.set_bytes_sent(2048);
  summary.set_bytes_received(1024);
  for (const char* id : {"cpu-0", "cpu-1"}) {
    auto& node = *summary.add_nodes();
    node.set_node_id(id);
    node.set_shards(1);
    node.set_tokens(3552);
    node.set_kv_bytes(10 << 20);
  }
  auto& stage = *summary.add_stages();
  stage.set_stage("remote_wait");
  stage.set_seconds(0.0015);
  return result;
}

// Others script against these names.
TEST(ReportTest, GenerateJsonHasTheFixedFields) {
  const auto object = GenerateJson(Example());
  EXPECT_EQ(object.at("prompt_tokens"), 8192);
  EXPECT_EQ(object.at("tokens"), (std::vector<uint32_t>{'h', 'i', 0xff}));
  EXPECT_EQ(object.at("text"), "hi\xff");
  EXPECT_EQ(object.at("finish_reason"), "length");
  EXPECT_EQ(object.at("ttft_s"), 1.5);
  EXPECT_EQ(object.at("decode_tokens_per_s"),
            4.0);  // two tokens in half a second; the first is prefill's
  EXPECT_EQ(object.at("context_tokens"), 8195);
  EXPECT_EQ(object.at("resident_tokens"), 1091);
  EXPECT_EQ(object.at("remote_tokens"), 7104);
  EXPECT_EQ(object.at("attended_tokens_mean"), 8193.5);
  EXPECT_EQ(object.at("policy"), "dense");
  EXPECT_EQ(object.at("bytes_sent"), 2048);
  EXPECT_EQ(object.at("bytes_received"), 1024);
  ASSERT_EQ(object.at("nodes").size(), 2);
  EXPECT_EQ(object.at("nodes")[1].at("id"), "cpu-1");
  EXPECT_EQ(object.at("nodes")[1].at("shards"), 1);
  EXPECT_EQ(object.at("nodes")[1].at("tokens"), 3552);
  EXPECT_EQ(object.at("nodes")[1].at("kv_bytes"), 10 << 20);
}

TEST(ReportTest, JsonIsOneLineOfValidUtf8) {
  const std::string text = DumpJson(GenerateJson(Example()));
  EXPECT_EQ(text.find('\n'), std::string::npos);
  EXPECT_THAT(text, HasSubstr("\"hi\xef\xbf\xbd\""));
  EXPECT_TRUE(nlohmann::json::accept(text));
}

TEST(ReportTest, TextIsNullIfThereIsNone) {
  GenerateResult result = Example();
  result.has_text = false;
  EXPECT_TRUE(GenerateJson(result).at("text").is_null());
}

TEST(ReportTest, AnAnswerThatAStopStringEndedHasNoPlacement) {
  GenerateResult result;
  result.tokens = {1, 2};
  result.has_text = true;
  result.text = "ab";
  result.stopped_by = "END";
  const auto object = GenerateJson(result);
  EXPECT_EQ(object.at("finish_reason"), "stop");
  EXPECT_EQ(object.at("stop_string"), "END");
  EXPECT_EQ(object.at("text"), "ab");
  EXPECT_FALSE(object.contains("context_tokens"));
  EXPECT_THAT(SummaryTable(result), HasSubstr("ended the answer after 2 tokens"));
}

TEST(ReportTest, IdsOf64BitsAreStrings) {
  constexpr uint64_t kId = 0xfedc'ba98'7654'3211;
  v1::StatusResponse status;
  status.add_nodes()->mutable_endpoint()->set_incarnation(kId);
  status.add_kept_sequences()->set_sequence_id(kId);
  const auto object = StatusJson(status);
  EXPECT_EQ(object.at("nodes")[0].at("incarnation"), "18364758544493064721");
  EXPECT_EQ(object.at("kept_sequences")[0].at("sequence_id"), "18364758544493064721");
}

TEST(ReportTest, WhatOthersSentIsPrintedWithoutControlCharacters) {
  v1::StatusResponse status;
  status.add_kept_sequences()->set_request_id("evil\nline\x1b[31m");
  status.add_nodes()->mutable_endpoint()->set_node_id("n\x07");
  const std::string table = StatusTable(status);
  EXPECT_THAT(table, HasSubstr("evil\\nline\\x1b[31m"));
  EXPECT_THAT(table, HasSubstr("n\\x07"));
}

TEST(ReportTest, ErrorsAreOneObject) {
  EXPECT_EQ(DumpJson(ErrorJson(absl::NotFoundError("no 'x'"))), R"({"error":{"code":"NOT_FOUND","message":"no 'x'"}})");
}

TEST(ReportTest, AlternativesAreCollectedAndPrintedAsPairs) {
  EXPECT_FALSE(GenerateJson(Example()).contains("top_logprobs"));
  GenerateResult result;
  for (const uint32_t token : {7u, 8u}) {
    v1::GenerateEvent::TokenChunk chunk;
    chunk.add_tokens(token);
    chunk.add_logprobs(-0.5f);
    auto& top = *chunk.add_top_logprobs();
    top.add_tokens(token);
    top.add_logprobs(-0.5f);
    top.add_tokens(3);
    top.add_logprobs(-2.0f);
    Append(chunk, &result);
  }
  EXPECT_EQ(result.tokens, (std::vector<uint32_t>{7, 8}));
  EXPECT_EQ(result.logprobs, (std::vector<float>{-0.5f, -0.5f}));
  const auto expected = nlohmann::ordered_json::parse("[[[7,-0.5],[3,-2.0]],[[8,-0.5],[3,-2.0]]]");
  EXPECT_EQ(GenerateJson(result).at("top_logprobs"), expected);
  EXPECT_EQ(ScoreJson(result).at("top_logprobs"), expected);
}

TEST(ReportTest, ScoreIsTheMeanNegativeNaturalLog) {
  const auto object = ScoreJson(Example());
  EXPECT_DOUBLE_EQ(object.at("nll_mean"), 2.0);
  EXPECT_EQ(object.at("tokens"), 3);
  EXPECT_DOUBLE_EQ(object.at("perplexity"), std::exp(2.0));
}

TEST(ReportTest, OneTokenHasNoDecodeRate) {
  GenerateResult result = Example();
  result.summary.set_generated_tokens(1);
  result.summary.set_decode_s(0);
  EXPECT_EQ(GenerateJson(result).at("decode_tokens_per_s"), 0);
}

TEST(ReportTest, TableShowsWhereTheContextLay) {
  const std::string table = SummaryTable(Example());
  EXPECT_THAT(table, HasSubstr("8,195 tokens"));
  EXPECT_THAT(table, HasSubstr("cpu-1"));
  EXPECT_THAT(table, HasSubstr("43.3 %"));
  EXPECT_THAT(table, HasSubstr("remote_wait"));
  EXPECT_THAT(table, HasSubstr("4.0 tokens/s"));
}

TEST(ReportTest, SparsePoliciesSayWhatTheyReadAndKept) {
  EXPECT_FALSE(GenerateJson(Example()).contains("attention")) << "dense";
  GenerateResult result = Example();
  result.summary.set_policy("hgca");
  auto& attention = *result.summary.mutable_attention();
  attention.set_remote_read_share(0.081);
  EXPECT_TRUE(GenerateJson(result).at("attention").at("kept_mass_mean").is_null());
  EXPECT_TRUE(GenerateJson(result).at("attention").at("output_error_max").is_null());
  EXPECT_THAT(SummaryTable(result), HasSubstr("8.10 %; what it kept was not measured"));
  attention.set_samples(3);
  attention.set_kept_mass_mean(0.97);
  attention.set_kept_mass_min(0.5);
  attention.set_output_error_mean(0.0125);
  attention.set_output_error_p95(0.05);
  attention.set_output_error_max(0.25);
  attention.set_fallback_heads(2);
  auto& head = *attention.add_heads();
  head.set_layer(4);
  head.set_kv_head(1);
  head.set_read_share(0.25);
  head.set_kept_mass_mean(0.75);
  head.set_kept_mass_min(0.5);
  head.set_output_error_mean(0.02);
  head.set_output_error_p95(0.06);
  head.set_output_error_max(0.125);
  const auto object = GenerateJson(result).at("attention");
  EXPECT_EQ(object.at("remote_read_share"), 0.081);
  EXPECT_EQ(object.at("samples"), 3);
  EXPECT_EQ(object.at("kept_mass_mean"), 0.97);
  EXPECT_EQ(object.at("kept_mass_min"), 0.5);
  EXPECT_EQ(object.at("output_error_mean"), 0.0125);
  EXPECT_EQ(object.at("output_error_p95"), 0.05);
  EXPECT_EQ(object.at("output_error_max"), 0.25);
  EXPECT_EQ(object.at("fallback_heads"), 2);
  EXPECT_EQ(object.at("heads")[0].at("layer"), 4);
  EXPECT_EQ(object.at("heads")[0].at("kv_head"), 1);
  EXPECT_EQ(object.at("heads")[0].at("read_share"), 0.25);
  EXPECT_EQ(object.at("heads")[0].at("output_error_mean"), 0.02);
  EXPECT_EQ(object.at("heads")[0].at("output_error_p95"), 0.06);
  EXPECT_EQ(object.at("heads")[0].at("output_error_max"), 0.125);
  EXPECT_EQ(ScoreJson(result).at("attention"), object);
  const std::string table = SummaryTable(result);
  EXPECT_THAT(table, HasSubstr("97.00 % (least 50.00 %), measured in 3 steps"));
  EXPECT_THAT(table, HasSubstr("output error 0.013 (95 % of heads and steps 0.05, worst 0.25)"));
  EXPECT_THAT(table, HasSubstr("2 heads kept too little or were too wrong"));
  EXPECT_THAT(table, HasSubstr("layer   4 KV head   1   read  25.00 %"));
  EXPECT_THAT(table, HasSubstr("error    0.02 (worst    0.12)"));
}

TEST(ReportTest, StatusNamesMembers) {
  v1::StatusResponse status;
  status.set_version("0.1.0");
  auto& node = *status.add_nodes();
  node.mutable_endpoint()->set_node_id("cpu-0");
  node.mutable_endpoint()->set_control_address("127.0.0.1:9");
  node.set_role(v1::NODE_ROLE_CPU_ATTENTION);
  node.set_state("suspect");
  EXPECT_EQ(StatusJson(status).at("nodes")[0].at("state"), "suspect");
  EXPECT_THAT(StatusTable(status), HasSubstr("suspect"));
}

TEST(ReportTest, KeptSequencesAndTheirLeases) {
  GenerateResult result = Example();
  EXPECT_FALSE(GenerateJson(result).contains("kept"));
  auto& kept = *result.summary.mutable_kept();
  kept.set_request_id("chat");
  kept.set_lease_ns(90'000'000'000);
  kept.set_max_context_tokens(10000);
  kept.set_growth_tokens(1805);
  EXPECT_EQ(GenerateJson(result).at("kept").at("request_id"), "chat");
  EXPECT_EQ(GenerateJson(result).at("kept").at("lease_s"), 90.0);
  EXPECT_EQ(GenerateJson(result).at("kept").at("growth_tokens"), 1805);
  EXPECT_THAT(SummaryTable(result), HasSubstr("kept for 90.00 s: --continue chat may add 1,805 tokens"));

  v1::StatusResponse status;
  EXPECT_THAT(StatusTable(status), Not(HasSubstr("kept")));
  auto& sequence = *status.add_kept_sequences();
  sequence.set_request_id("chat");
  sequence.set_lease_left_s(12.5);
  sequence.set_context_tokens(8195);
  sequence.set_max_context_tokens(10000);
  EXPECT_EQ(StatusJson(status).at("kept_sequences")[0].at("lease_left_s"), 12.5);
  EXPECT_THAT(StatusTable(status), HasSubstr("8,195 of 10,000"));
}

TEST(ReportTest, Units) {
  EXPECT_EQ(FormatBytes(512), "512 B");
  EXPECT_EQ(FormatBytes(1536), "1.5 KiB");
  EXPECT_EQ(FormatCount(1234567), "1,234,567");
  EXPECT_EQ(FormatCount(999), "999");
  EXPECT_EQ(FormatSeconds(2.5), "2.50 s");
  EXPECT_EQ(FormatSeconds(0.0031), "3.1 ms");
  EXPECT_EQ(FormatSeconds(87e-6), "87 us");
}

}  // namespace
}  // namespace tributary

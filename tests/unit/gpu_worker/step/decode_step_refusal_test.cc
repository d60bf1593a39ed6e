// A node that refuses the query frame of a step, or whose answer is damaged on the way: the frame's rows fail at once,
// long before the step's deadline.
#include <tuple>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/gpu_worker/step/decode_step_fixture.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

class DecodeStepRefusalTest : public testing::DecodeStepNodeTest {
 protected:
  DecodeStepRefusalTest() { clock_.tick_ns = kNsPerMs; }  // whoever waits for the deadline comes to it soon

  void ExpectFailsAtOnce(const std::string& message_part) {
    const int64_t begin_ns = clock_.NowNs();
    Run();
    EXPECT_LT(clock_.NowNs() - begin_ns, kTimeoutNs / 2);
    EXPECT_TRUE(absl::IsInternal(row_.status)) << row_.status;
    EXPECT_THAT(std::string(row_.status.message()), HasSubstr(message_part));
    EXPECT_NE(row_.failed_node, kNoNode);
  }
  int num_errors_sent() { return node_.num_frames[static_cast<uint8_t>(FrameType::kError)]; }
};

TEST_F(DecodeStepRefusalTest, TheRowSaysWhatTheNodeSaid) {
  node_.refusal = "shard 10 is not granted\nto worker w";
  ExpectFailsAtOnce("it rejected the query frame: not_granted (shard 10 is not granted\\nto worker w)");
  EXPECT_EQ(num_errors_sent(), 0);
}

TEST_F(DecodeStepRefusalTest, ADamagedPartialFailsItsRow) {
  node_.damage = true;
  ExpectFailsAtOnce("layer 0: its answer was damaged on the way: bad_payload");
  clock_.NowNs();  // the node looks once more
  EXPECT_EQ(num_errors_sent(), 1) << "the node is told";
}

// Nobody can read what it refuses, but its header says whom it answers.
TEST_F(DecodeStepRefusalTest, ADamagedRefusalFailsItsRow) {
  node_.refusal = "shard 10 is not granted to worker w";
  node_.damage = true;
  ExpectFailsAtOnce("layer 0: its answer was damaged on the way: bad_payload");
  clock_.NowNs();
  EXPECT_EQ(num_errors_sent(), 0) << "error frames are not answered";
}

// Of an earlier step, of another frame of this layer, of no step at all.
TEST_F(DecodeStepRefusalTest, ADamagedRefusalOfSomethingElseHarmsNothing) {
  Run();
  const int64_t step_id = 2;
  int num_told = 0;
  node_.on_query = [&](const FrameHeader& query) {
    EXPECT_EQ(query.step_id, step_id);
    FrameHeader header{.type = static_cast<uint8_t>(FrameType::kError)};
    for (const auto& [step, layer, slot] : {std::tuple{query.step_id - 1, query.layer, query.slot},
                                            std::tuple{query.step_id, uint16_t(query.layer + 1), query.slot},
                                            std::tuple{query.step_id, query.layer, uint16_t(query.slot + 1)},
                                            std::tuple{query.step_id | uint64_t{1} << 63, query.layer, query.slot}}) {
      header.step_id = step;
      header.layer = layer;
      header.slot = slot;
      step_->OnDamaged(shards_[0].holders[0].node, header);
      ++num_told;
    }
  };
  row_.status = absl::OkStatus();
  Run();
  EXPECT_TRUE(row_.status.ok()) << row_.status;
  EXPECT_EQ(num_told, 4 * 3);
}

}  // namespace
}  // namespace tributary

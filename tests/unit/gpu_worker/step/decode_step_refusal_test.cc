// A node that refuses the query frame of a step: its rows fail at once, long before the step's deadline.
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/gpu_worker/step/decode_step_fixture.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

class DecodeStepRefusalTest : public testing::DecodeStepNodeTest {
 protected:
  void ExpectFailsAtOnce(const std::string& message_part) {
    const int64_t begin_ns = clock_.NowNs();
    Run();
    EXPECT_LT(clock_.NowNs() - begin_ns, kTimeoutNs / 10);
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

}  // namespace
}  // namespace tributary

#include "rpc/grpc_status.h"

#include "gtest/gtest.h"

namespace tributary {
namespace {

TEST(GrpcStatusTest, CodeAndMessageSurviveTheRoundTrip) {
  const absl::Status status = absl::UnavailableError("node cpu-1 is gone");
  EXPECT_EQ(FromGrpcStatus(ToGrpcStatus(status)), status);
  EXPECT_TRUE(FromGrpcStatus(ToGrpcStatus(absl::OkStatus())).ok());
  EXPECT_FALSE(RetryDelayNs(ToGrpcStatus(status)).has_value());
}

TEST(GrpcStatusTest, RetryDelayTravelsInTheDetails) {
  const grpc::Status status = ToGrpcStatus(absl::ResourceExhaustedError("queue full"), 2'500'000'000);
  EXPECT_EQ(status.error_code(), grpc::StatusCode::RESOURCE_EXHAUSTED);
  EXPECT_EQ(RetryDelayNs(status), 2'500'000'000);
}

}  // namespace
}  // namespace tributary

#include "proto/outside_strings.h"

#include <string>

#include "base/limits.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tributary/v1/coordinator.pb.h"
#include "tributary/v1/cpu_attention.pb.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

TEST(OutsideStringsTest, NamesOfTheirFullLengthAreFine) {
  v1::RegisterRequest request;
  EXPECT_TRUE(CheckOutsideStrings(request).ok());
  v1::NodeInfo& node = *request.mutable_node();
  node.mutable_endpoint()->set_node_id(std::string(limits::kMaxNodeIdBytes, 'n'));
  node.mutable_endpoint()->set_control_address(std::string(limits::kMaxAddressBytes, 'a'));
  node.mutable_geometry()->set_model_name("größe " + std::string(limits::kMaxModelNameBytes - 8, 'm'));
  absl::Status status = CheckOutsideStrings(request);
  EXPECT_TRUE(status.ok()) << status;
  v1::ConnectRequest connect;
  connect.mutable_transport()->set_address(std::string(limits::kMaxTransportAddressBytes, '\0'));  // bytes, not text
  status = CheckOutsideStrings(connect);
  EXPECT_TRUE(status.ok()) << status;
}

TEST(OutsideStringsTest, LongOnesAreRefusedWithFieldLengthAndLimit) {
  v1::RegisterRequest request;
  v1::NodeInfo& node = *request.mutable_node();
  const auto message = [&] {
    const absl::Status status = CheckOutsideStrings(request);
    EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
    return std::string(status.message());
  };
  node.mutable_endpoint()->set_node_id(std::string(5000, 'n'));
  EXPECT_THAT(message(), HasSubstr("node_id has 5000 bytes; at most 128"));
  node.mutable_endpoint()->set_node_id("n");
  node.mutable_geometry()->set_model_name(std::string(257, 'm'));
  EXPECT_THAT(message(), HasSubstr("model_name has 257 bytes; at most 256"));
  node.mutable_geometry()->set_model_name("m");
  node.set_version(std::string(1025, 'v'));
  EXPECT_THAT(message(), HasSubstr("version has 1025 bytes; at most 1024"));
  v1::ConnectRequest connect;
  connect.mutable_transport()->set_address(std::string(limits::kMaxTransportAddressBytes + 1, 'x'));
  EXPECT_THAT(std::string(CheckOutsideStrings(connect).message()), HasSubstr("address has 65537 bytes; at most 65536"));
}

TEST(OutsideStringsTest, ControlCharactersAreRefusedWithTheirPlace) {
  v1::GenerateRequest request;
  request.set_request_id("mine\x1b]0;title\x07");
  const absl::Status status = CheckOutsideStrings(request);
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(std::string(status.message()), HasSubstr("request_id 'mine\\x1b]0;title\\x07'"));
  EXPECT_THAT(std::string(status.message()), HasSubstr("control character at byte 4"));
}

}  // namespace
}  // namespace tributary

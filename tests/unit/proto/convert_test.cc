#include "proto/convert.h"

#include "gmock/gmock.h"
#include "gtest/gtest.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

ShardSpec AnyShardSpec() {
  ShardSpec spec;
  spec.shard_id = ShardId(3);
  spec.sequence_id = SequenceId(5);
  spec.epoch = Epoch(7);
  spec.model = {8, 2, 64};
  spec.num_layers = 6;
  spec.layer_begin = 1;
  spec.layer_end = 5;
  spec.kv_head_begin = 1;
  spec.kv_head_end = 2;
  spec.stripe = {64, 256, 4, 3};
  spec.capacity_tokens = 4096;
  spec.k_dtype = DType::kBf16;
  spec.v_dtype = DType::kF16;
  spec.policy = *ResolvePolicy({.name = "hgca",
                                .parameters = {{"alpha", 0.1},
                                               {"group_aggregate", "max"},
                                               {"dense_layers", std::vector<uint32_t>{5}},
                                               {"dense_heads", std::vector<LayerHead>{{0, 1}, {3, 0}}}}},
                               {});
  return spec;
}

TEST(ConvertTest, ShardSpecSurvivesTheRoundTrip) {
  const absl::StatusOr<ShardSpec> back = ShardSpecFromProto(ShardSpecToProto(AnyShardSpec()));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(*back == AnyShardSpec());
}

TEST(ConvertTest, AWorkersIdentitySurvivesTheRoundTripAndIsNotEmpty) {
  const WorkerIdentity worker{"gpu-0", 9};
  const absl::StatusOr<WorkerIdentity> back = WorkerIdentityFromProto(WorkerIdentityToProto(worker));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(*back, worker);
  const absl::Status nobody = WorkerIdentityFromProto(WorkerIdentityToProto({"", 9})).status();
  EXPECT_EQ(nobody.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(nobody.ToString(), HasSubstr("worker_id is empty"));
}

TEST(ConvertTest, AShardsHoldersSurviveTheRoundTrip) {
  const ShardPlacement placement{AnyShardSpec(), {{"cpu-0", 8, "host:9"}, {"cpu-1", 3, "host:10"}}};
  const absl::StatusOr<ShardPlacement> back = ShardPlacementFromProto(ShardPlacementToProto(placement));
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_TRUE(*back == placement);
}

TEST(ConvertTest, RefusesAShardWithoutAHolderOrWithOneTwice) {
  ShardPlacement placement{AnyShardSpec(), {}};
  EXPECT_THAT(ShardPlacementFromProto(ShardPlacementToProto(placement)).status().ToString(),
              HasSubstr("shard 3 of sequence 5 has no holder"));
  placement.holders = {{"cpu-0", 8, "host:9"}, {"cpu-0", 8, "host:9"}};
  const absl::Status status = ShardPlacementFromProto(ShardPlacementToProto(placement)).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.ToString(), HasSubstr("node 'cpu-0' as a holder twice"));
}

TEST(ConvertTest, RefusesAShardWithoutOrWithAnUnknownDType) {
  v1::ShardSpec message = ShardSpecToProto(AnyShardSpec());
  message.set_v_dtype(v1::DTYPE_UNSET);
  EXPECT_EQ(ShardSpecFromProto(message).status().code(), absl::StatusCode::kInvalidArgument);
  message.set_v_dtype(static_cast<v1::DType>(77));
  const absl::Status status = ShardSpecFromProto(message).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kInvalidArgument);
  EXPECT_THAT(status.ToString(), HasSubstr("77"));
}

TEST(ConvertTest, RefusesAShardWhosePolicyIsNotComplete) {
  v1::ShardSpec message = ShardSpecToProto(AnyShardSpec());
  message.mutable_policy()->mutable_parameters()->DeleteSubrange(1, 1);
  EXPECT_THAT(ShardSpecFromProto(message).status().ToString(), HasSubstr("beta of policy hgca"));
  message = ShardSpecToProto(AnyShardSpec());
  message.mutable_policy()->mutable_parameters(1)->set_number(-1);
  EXPECT_THAT(ShardSpecFromProto(message).status().ToString(), HasSubstr("beta is -1"));
  message = ShardSpecToProto(AnyShardSpec());
  message.mutable_policy()->mutable_parameters()->rbegin()->mutable_heads()->mutable_heads(0)->set_kv_head(2);
  EXPECT_THAT(ShardSpecFromProto(message).status().ToString(), HasSubstr("0:2"));
  message.clear_policy();
  EXPECT_THAT(ShardSpecFromProto(message).status().ToString(), HasSubstr("no name"));
}

TEST(ConvertTest, RefusesTransportOfAnotherFrameVersionNamingBoth) {
  TransportInfo info{"ucx", "1.13.1", "posix,tcp", std::string("\0\1\2", 3)};
  v1::TransportInfo message = TransportInfoToProto(info);
  const absl::StatusOr<TransportInfo> back = TransportInfoFromProto(message);
  ASSERT_TRUE(back.ok()) << back.status();
  EXPECT_EQ(back->address, info.address);
  message.set_frame_version(9);
  const absl::Status status = TransportInfoFromProto(message).status();
  EXPECT_EQ(status.code(), absl::StatusCode::kFailedPrecondition);
  EXPECT_THAT(status.ToString(), HasSubstr("version 9"));
}

}  // namespace
}  // namespace tributary

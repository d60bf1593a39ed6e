// The toy policy over UCX: the worker and two nodes in one process and one thread, frames through shared memory or TCP.
#include "tests/toy_policy/toy_cluster_test.h"
#include "transport/ucx/ucx_data_plane.h"

namespace tributary::toy {
namespace {

class ToyUcxTest : public ToyClusterTest, public ::testing::WithParamInterface<std::string> {
 protected:
  SimOptions UcxCluster() {
    SimOptions options;
    options.model.seed = random_();
    options.num_nodes = 2;
    options.make_plane = [tls = GetParam()] {
      UcxOptions ucx;
      ucx.tls = tls;
      ucx.send_arena_bytes = 16 << 20;
      ucx.recv_arena_bytes = 16 << 20;
      auto plane = MakeUcxDataPlane(ucx);
      EXPECT_TRUE(plane.ok()) << plane.status();
      return std::unique_ptr<DataPlane>(*std::move(plane));
    };
    return options;
  }
};

TEST_P(ToyUcxTest, TheSameLogitsAsInTheSimulator) {
  const SimOptions ucx = UcxCluster();
  SimOptions simulated = ucx;
  simulated.make_plane = nullptr;
  for (const uint64_t every : {1u, 3u}) {
    SimRequest request = RandomRequest(ucx.model, every);
    request.layout = {.sink_tokens = 2, .window_tokens = 16, .block_tokens = 8};
    request.cut.num_stripes = 2;
    const SimResult over_ucx = testing::RunAlone(ucx, request);
    ASSERT_TRUE(over_ucx.status.ok()) << over_ucx.status;
    EXPECT_GT(over_ucx.summary.bytes_received, 0u);
    EXPECT_EQ(over_ucx.logits, testing::RunAlone(simulated, request).logits);
  }
}

INSTANTIATE_TEST_SUITE_P(Transports, ToyUcxTest, ::testing::Values("shm", "tcp"),
                         [](const auto& info) { return info.param; });

}  // namespace
}  // namespace tributary::toy

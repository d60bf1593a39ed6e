// Makes every gRPC channel of the house.
#pragma once

#include <memory>
#include <string>

#include "grpcpp/channel.h"
#include "rpc/rpc_options.h"

namespace tributary {

// A channel with connections of its own (none shared with other channels to the same address), never through the
// user's web proxy. gRPC's own errors go to the log (grpc_log.h).
std::shared_ptr<grpc::Channel> MakeChannel(const std::string& address, const RpcOptions& options = {});

}  // namespace tributary

// Where a node is reached, and which start of its process is meant.
#pragma once

#include <cstdint>
#include <string>

namespace tributary {

struct NodeEndpoint {
  std::string node_id;
  uint64_t incarnation = 0;     // random per start
  std::string control_address;  // host:port of its gRPC server

  friend bool operator==(const NodeEndpoint&, const NodeEndpoint&) = default;
};

}  // namespace tributary

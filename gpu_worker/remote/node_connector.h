// How the worker pairs with a CPU attention node: the control-plane call CpuAttention.Connect, behind an interface of
// its user.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <utility>

#include "absl/status/statusor.h"
#include "base/ids.h"
#include "cluster/node_endpoint.h"
#include "transport/data_plane.h"
#include "wire/frame_seal.h"

namespace tributary {

// A process of which the operating system says when it ends. Thread-compatible.
class PeerProcess {
 public:
  virtual ~PeerProcess() = default;
  // Cheap enough to be asked a hundred times a second. Once true, it stays so.
  virtual bool HasEnded() = 0;
};

// What pairing with a node gives.
struct NodeSession {
  TransportInfo transport;  // the node's
  SessionId session_id;
  SessionKeys keys;
  Epoch epoch;  // the node's incarnation
  std::string node_id;
  std::shared_ptr<PeerProcess> process = nullptr;  // null: it is not of this host, or cannot be seen from here
};

class NodeConnector {
 public:
  using Done = std::function<void(absl::StatusOr<NodeSession>)>;

  virtual ~NodeConnector() = default;
  // Begins to pair, and blocks nobody. Calls `done` once, from any thread, perhaps before it returns, and within a few
  // seconds: UNAVAILABLE or DEADLINE_EXCEEDED then. `local` is this worker's.
  virtual void BeginConnect(const NodeEndpoint& node, const TransportInfo& local, Done done) = 0;
};

// One that has its answer at once: tests, benchmarks, nodes of the same process.
class BlockingConnector : public NodeConnector {
 public:
  void BeginConnect(const NodeEndpoint& node, const TransportInfo& local, Done done) final {
    done(Connect(node, local));
  }
  virtual absl::StatusOr<NodeSession> Connect(const NodeEndpoint& node, const TransportInfo& local) = 0;
};

}  // namespace tributary

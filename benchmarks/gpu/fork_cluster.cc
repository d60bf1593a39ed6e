#include "benchmarks/gpu/fork_cluster.h"

#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <csignal>
#include <cstring>
#include <memory>

#include "base/check.h"
#include "base/status.h"
#include "benchmarks/gpu/null_node.h"
#include "cpu_attention_service/node/attention_server.h"
#include "cpu_attention_service/node/io_loop.h"
#include "fmt/format.h"
#include "proto/convert.h"
#include "transport/ucx/ucx_data_plane.h"

namespace tributary {
namespace {

constexpr int64_t kCallTimeoutNs = 60 * kNsPerS;
constexpr size_t kMaxMessageBytes = 64 << 10;
const WorkerIdentity kWorker{"bench", 1};
constexpr char kConnect = 'c', kOpenShard = 'o', kCloseShard = 'x';

template <typename T>
std::string Bytes(const T& value) {
  static_assert(std::is_trivially_copyable_v<T>);
  return {reinterpret_cast<const char*>(&value), sizeof(T)};
}
template <typename T>
T FromBytes(std::string_view bytes) {
  TRIBUTARY_CHECK_GE(bytes.size(), sizeof(T));
  T value;
  std::memcpy(&value, bytes.data(), sizeof(T));
  return value;
}

// A connection's answer: these bytes, then the four strings of TransportInfo, each with its length.
struct Session {
  SessionId session_id;
  SessionKeys keys;
  Epoch epoch;
};

void AppendString(const std::string& text, std::string* to) {
  *to += Bytes(static_cast<uint32_t>(text.size()));
  *to += text;
}
std::string TakeString(std::string_view* from) {
  const auto size = FromBytes<uint32_t>(*from);
  std::string text(from->substr(sizeof(uint32_t), size));
  from->remove_prefix(sizeof(uint32_t) + size);
  return text;
}

std::string ConnectAnswer(const Session& session, const TransportInfo& info) {
  std::string answer = Bytes(session);
  for (const std::string& text : {info.name, info.release, info.transports, info.address}) {
    AppendString(text, &answer);
  }
  return answer;
}

// The node's process: answers calls until the benchmark is gone.
class NodeProcess {
 public:
  absl::Status Start(const ForkClusterOptions& options, const std::string& id) {
    TRIBUTARY_ASSIGN_OR_RETURN(plane_, MakeUcxDataPlane({}));
    AttentionServerOptions server;
    server.node_id = id;
    server.incarnation = 1;
    server.arena.bytes = options.kv_pool_bytes;
    server.num_threads = options.threads_per_node;
    server.helper_spin_ns = options.idle.spin_ns;
    TRIBUTARY_ASSIGN_OR_RETURN(server_, AttentionServer::Create(server, plane_.get(), &clock_, nullptr));
    loop_ = std::make_unique<IoLoop>(server_.get(), plane_.get(), &clock_, options.idle);
    loop_->Start();
    return absl::OkStatus();
  }

  absl::StatusOr<std::string> Answer(std::string_view request) {
    absl::StatusOr<std::string> answer = absl::InternalError("not run");
    TRIBUTARY_RETURN_IF_ERROR(loop_->Run(
        [&](AttentionServer& server) { answer = Run(server, request[0], request.substr(1)); }, kCallTimeoutNs));
    return answer;
  }

 private:
  absl::StatusOr<std::string> Run(AttentionServer& server, char operation, std::string_view argument) {
    if (operation == kConnect) {
      TRIBUTARY_ASSIGN_OR_RETURN(const SessionGrant grant, server.OpenSession(kWorker, std::string(argument)));
      return ConnectAnswer({grant.session_id, grant.keys, grant.epoch}, plane_->info());
    }
    if (operation == kOpenShard) {
      v1::ShardSpec message;
      TRIBUTARY_CHECK(message.ParseFromArray(argument.data(), static_cast<int>(argument.size())));
      TRIBUTARY_ASSIGN_OR_RETURN(const ShardSpec spec, ShardSpecFromProto(message));
      TRIBUTARY_RETURN_IF_ERROR(server.OpenShard(spec, kWorker).status());
    } else {
      TRIBUTARY_RETURN_IF_ERROR(server.CloseShard(FromBytes<ShardId>(argument), Epoch(1)));
    }
    return std::string();
  }

  RealClock clock_;
  std::unique_ptr<UcxDataPlane> plane_;
  std::unique_ptr<AttentionServer> server_;
  std::unique_ptr<IoLoop> loop_;
};

// Takes a call from the socket, if there is one. False once the benchmark is gone.
bool AnswerNullCall(NullNode& node, const DataPlane& plane, int socket, bool wait) {
  std::vector<char> buffer(kMaxMessageBytes);
  const ssize_t size = recv(socket, buffer.data(), buffer.size(), wait ? 0 : MSG_DONTWAIT);
  if (size < 0 && errno == EAGAIN) return true;
  if (size <= 0) return false;
  std::string message = "+";
  if (buffer[0] == kConnect) {
    const absl::Status status = node.Connect({buffer.data() + 1, static_cast<size_t>(size) - 1});
    if (!status.ok()) return false;
    message += ConnectAnswer({SessionId(node.session_id()), {node.key(), std::nullopt}, Epoch(1)}, plane.info());
  }
  return send(socket, message.data(), message.size(), 0) >= 0;
}

[[noreturn]] void RunNullNode(uint64_t number, int socket) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  auto plane = MakeUcxDataPlane({});
  if (!plane.ok()) _exit(1);
  NullNode node(plane->get(), number);
  constexpr uint64_t kPollsPerCall = 4096;
  bool there = AnswerNullCall(node, **plane, socket, /*wait=*/true);
  for (uint64_t i = 1; there; ++i) {
    node.Poll();
    if (i % kPollsPerCall == 0) there = AnswerNullCall(node, **plane, socket, /*wait=*/false);
  }
  _exit(0);
}

[[noreturn]] void RunNode(const ForkClusterOptions& options, const std::string& id, int socket) {
  prctl(PR_SET_PDEATHSIG, SIGKILL);
  NodeProcess node;
  const absl::Status started = node.Start(options, id);
  std::vector<char> buffer(kMaxMessageBytes);
  while (true) {
    const ssize_t size = recv(socket, buffer.data(), buffer.size(), 0);
    if (size <= 0) break;
    const absl::StatusOr<std::string> answer =
        started.ok() ? node.Answer({buffer.data(), static_cast<size_t>(size)}) : absl::StatusOr<std::string>(started);
    std::string message(1, answer.ok() ? '+' : '-');
    message.append(answer.ok() ? *answer : std::string(answer.status().message()));
    if (send(socket, message.data(), message.size(), 0) < 0) break;
  }
  _exit(0);
}

}  // namespace

absl::StatusOr<std::unique_ptr<ForkCluster>> ForkCluster::Create(const ForkClusterOptions& options) {
  auto cluster = std::make_unique<ForkCluster>();
  for (int i = 0; i < options.num_nodes; ++i) {
    std::array<int, 2> sockets;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET, 0, sockets.data()) != 0) {
      return absl::InternalError(fmt::format("socketpair: {}", strerror(errno)));
    }
    const std::string id = fmt::format("{}-{}", options.null_nodes ? "null" : "bench", i);
    const pid_t process = fork();
    if (process < 0) return absl::InternalError(fmt::format("fork: {}", strerror(errno)));
    if (process == 0) {
      close(sockets[0]);
      if (options.null_nodes) RunNullNode(static_cast<uint64_t>(i) + 1, sockets[1]);
      RunNode(options, id, sockets[1]);
    }
    close(sockets[1]);
    cluster->nodes_.push_back({id, process, sockets[0]});
  }
  return cluster;
}

ForkCluster::~ForkCluster() {
  for (const Node& node : nodes_) {
    close(node.socket);
    kill(node.process, SIGKILL);  // it may be busy freeing much memory; nobody needs that
    waitpid(node.process, nullptr, 0);
  }
}

absl::StatusOr<std::string> ForkCluster::Call(const Node& node, char operation, std::string_view argument) {
  std::string request(1, operation);
  request.append(argument);
  std::string answer(kMaxMessageBytes, '\0');
  ssize_t size = send(node.socket, request.data(), request.size(), MSG_NOSIGNAL);
  if (size >= 0) size = recv(node.socket, answer.data(), answer.size(), 0);
  if (size <= 0) return absl::UnavailableError(fmt::format("node '{}' has ended", node.id));
  answer.resize(static_cast<size_t>(size));
  if (answer[0] != '+') {
    return absl::InternalError(fmt::format("node '{}': {}", node.id, answer.substr(1)));
  }
  return answer.substr(1);
}

absl::StatusOr<NodeSession> ForkCluster::Connect(const NodeEndpoint& endpoint, const TransportInfo& local) {
  for (const Node& node : nodes_) {
    if (node.id != endpoint.node_id) continue;
    TRIBUTARY_ASSIGN_OR_RETURN(const std::string answer, Call(node, kConnect, local.address));
    const auto session = FromBytes<Session>(answer);
    std::string_view rest = std::string_view(answer).substr(sizeof(Session));
    TransportInfo info;
    for (std::string* text : {&info.name, &info.release, &info.transports, &info.address}) {
      *text = TakeString(&rest);
    }
    return NodeSession{info, session.session_id, session.keys, session.epoch, node.id};
  }
  return absl::NotFoundError(fmt::format("no node '{}'", endpoint.node_id));
}

absl::StatusOr<ShardPlacement> ForkCluster::OpenShard(int node, const ShardSpec& spec) {
  const Node& target = nodes_[static_cast<size_t>(node)];
  TRIBUTARY_RETURN_IF_ERROR(Call(target, kOpenShard, ShardSpecToProto(spec).SerializeAsString()).status());
  return ShardPlacement{spec, {{target.id, 1, fmt::format("process:{}", target.process)}}};
}

absl::Status ForkCluster::CloseShard(int node, ShardId shard) {
  return Call(nodes_[static_cast<size_t>(node)], kCloseShard, Bytes(shard)).status();
}

}  // namespace tributary

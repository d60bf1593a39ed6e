// The settings of every gRPC channel and server of the house: one struct, made into gRPC's words in one place
// (grpc_channel.cc, rpc_server.cc).
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "base/clock.h"
#include "base/limits.h"
#include "rpc/security/peer_role.h"
#include "rpc/security/security_options.h"

namespace grpc {
class ChannelCredentials;
class ServerCredentials;
}  // namespace grpc

namespace tributary {

class ClusterSecret;  // security/cluster_secret.h

// By what both ends prove who they are; RpcSecurity (security/rpc_security.h) makes it. Null means plaintext.
struct RpcCredentials {
  std::shared_ptr<grpc::ChannelCredentials> channel;
  std::shared_ptr<grpc::ServerCredentials> server;
  std::string server_name;                      // that a channel's server must prove; "" = its address's host
  std::shared_ptr<const ClusterSecret> secret;  // signs each call of a channel, as one of `self`; null = no signature
  PeerRole self = PeerRole::kClient;
  TlsFiles tls;  // what `channel` is made of, to find out why a connection fails
};

struct RpcOptions {
  RpcCredentials credentials;

  // Both ends ping a silent connection after the interval and give it up after the timeout. 0: no pings. The timeout is
  // also the sockets' TCP_USER_TIMEOUT, and longer than a peer may stand still (a paused process, a virtual machine
  // that moves): who needs to know sooner has heartbeats or deadlines of its own.
  int64_t keepalive_interval_ns = 10 * kNsPerS;
  int64_t keepalive_timeout_ns = 20 * kNsPerS;

  // A varint token takes at most 3 bytes below kMaxVocab: the longest prompt fits, with room for everything else.
  uint32_t max_message_bytes = limits::kMaxPromptBytes + (4u << 20);
  uint32_t max_metadata_bytes = 8192;

  // Channels.
  int64_t initial_backoff_ns = 100 * kNsPerMs;  // between attempts to connect
  int64_t max_backoff_ns = 2 * kNsPerS;
  // Of one attempt: a peer that is busy for a moment must not fail the call that connects first. A refused attempt ends
  // at once. Where packets are lost, a new attempt sends sooner than the system would repeat an old one.
  int64_t connect_timeout_ns = 5 * kNsPerS;

  // Servers.
  bool loopback_only = false;                   // any other address is refused
  int64_t min_ping_interval_ns = 5 * kNsPerS;   // peers that ping more often are cut off
  int64_t handshake_timeout_ns = 10 * kNsPerS;  // a connection that does not speak HTTP/2 by then is closed
  uint32_t max_connections = limits::kMaxServerConnections;
  uint32_t max_streams_per_connection = limits::kMaxStreamsPerConnection;
  uint64_t max_memory_bytes = uint64_t{2} << 30;  // of all its connections together
  int max_threads = 64;                           // that run the calls of a synchronous service
  int min_pollers = 1;                            // of those, waiting for the next call
  int max_pollers = 2;
};

}  // namespace tributary

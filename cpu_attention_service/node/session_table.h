// The workers that a node talks to, and the checks that each of their frames must pass.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/node_hash_map.h"
#include "base/ids.h"
#include "base/random_id.h"
#include "cluster/worker_identity.h"
#include "transport/data_plane.h"
#include "wire/frame.h"
#include "wire/frame_seal.h"
#include "wire/replay_window.h"

namespace tributary {

struct Session {
  SessionId id;
  SessionKeys keys;
  FrameSeal incoming;
  FrameSeal outgoing;
  PeerId peer;
  WorkerIdentity worker;
  ReplayWindow received;
  uint64_t next_frame_seq = 1;
  int64_t last_frame_ns = 0;  // by the clock of whoever gave it
};

// Thread-compatible. Session pointers stay valid until the session is removed.
class SessionTable {
 public:
  static constexpr size_t kMaxSessions = 256;

  // `with_mac`: whether payloads have a MAC (wire/frame_seal.h).
  SessionTable(bool with_mac, IdSource ids) : with_mac_(with_mac), ids_(std::move(ids)) {}

  // A new session with a random id and keys. REQUIRES: size() < kMaxSessions.
  Session& Add(const WorkerIdentity& worker, PeerId peer, int64_t now_ns);
  void Remove(SessionId id) { sessions_.erase(id); }

  Session* Find(SessionId id);
  Session* FindByPeer(PeerId peer);
  Session* FindByWorker(const std::string& worker_id);
  // Sessions without a frame since `before_ns`.
  std::vector<SessionId> IdleSince(int64_t before_ns) const;

  // Says whose frame this is, if it is new, genuine and whole. Else the session is null, with the reason:
  // kUnknownSession, kBadAuthTag, kReplayed. `session` is set also for kBadPayload: the header is genuine, and its
  // sender may be told.
  FrameError Authenticate(const FrameHeader& header, std::span<const std::byte> payload, Session** session);

  size_t size() const { return sessions_.size(); }

 private:
  const bool with_mac_;
  const IdSource ids_;
  absl::node_hash_map<SessionId, Session> sessions_;
};

}  // namespace tributary

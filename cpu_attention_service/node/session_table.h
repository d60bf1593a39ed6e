// The workers that a node talks to, and the checks that each of their frames must pass.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "absl/container/node_hash_map.h"
#include "base/ids.h"
#include "base/siphash.h"
#include "transport/data_plane.h"
#include "wire/frame.h"
#include "wire/replay_window.h"

namespace tributary {

struct Session {
  SessionId id;
  SipKey key{};
  PeerId peer;
  std::string worker_id;
  ReplayWindow received;
  uint64_t next_frame_seq = 1;
  int64_t last_frame_ns = 0;
};

// Thread-compatible. Session pointers stay valid until the session is removed.
class SessionTable {
 public:
  static constexpr size_t kMaxSessions = 256;

  // `epoch`: that of every session of this node.
  explicit SessionTable(Epoch epoch) : epoch_(epoch) {}

  // A new session with a random id and key. REQUIRES: size() < kMaxSessions.
  Session& Add(const std::string& worker_id, PeerId peer, int64_t now_ns);
  void Remove(SessionId id) { sessions_.erase(id); }

  Session* Find(SessionId id);
  Session* FindByPeer(PeerId peer);
  Session* FindByWorker(const std::string& worker_id);
  // Sessions without a frame since `before_ns`.
  std::vector<SessionId> IdleSince(int64_t before_ns) const;

  // Whose frame this is, if it is new and genuine. Else null, with the reason: kUnknownSession,
  // kBadAuthTag, kReplayed. `session` is set also for kStaleEpoch: the sender is genuine and may be
  // told.
  FrameError Authenticate(const FrameHeader& header, Session** session);

  size_t size() const { return sessions_.size(); }
  Epoch epoch() const { return epoch_; }

 private:
  const Epoch epoch_;
  absl::node_hash_map<SessionId, Session> sessions_;
};

}  // namespace tributary

#include "cpu_attention_service/node/session_table.h"

#include <random>

#include "base/check.h"

namespace tributary {
namespace {

uint64_t RandomU64() {
  std::random_device device;  // the operating system's generator
  return (uint64_t{device()} << 32) | device();
}

}  // namespace

Session& SessionTable::Add(const std::string& worker_id, PeerId peer, int64_t now_ns) {
  TRIBUTARY_CHECK_LT(sessions_.size(), kMaxSessions);
  SessionId id;
  while (id == SessionId() || sessions_.contains(id)) id = SessionId(RandomU64());
  Session& session = sessions_[id];
  session.id = id;
  session.key = {RandomU64(), RandomU64()};
  session.peer = peer;
  session.worker_id = worker_id;
  session.last_frame_ns = now_ns;
  return session;
}

Session* SessionTable::Find(SessionId id) {
  const auto it = sessions_.find(id);
  return it == sessions_.end() ? nullptr : &it->second;
}

Session* SessionTable::FindByPeer(PeerId peer) {
  for (auto& [id, session] : sessions_) {
    if (session.peer == peer) return &session;
  }
  return nullptr;
}

Session* SessionTable::FindByWorker(const std::string& worker_id) {
  for (auto& [id, session] : sessions_) {
    if (session.worker_id == worker_id) return &session;
  }
  return nullptr;
}

std::vector<SessionId> SessionTable::IdleSince(int64_t before_ns) const {
  std::vector<SessionId> idle;
  for (const auto& [id, session] : sessions_) {
    if (session.last_frame_ns < before_ns) idle.push_back(id);
  }
  return idle;
}

FrameError SessionTable::Authenticate(const FrameHeader& header, Session** session) {
  *session = nullptr;
  Session* found = Find(SessionId(header.session_id));
  if (found == nullptr) return FrameError::kUnknownSession;
  if (!VerifyHeader(found->key, header)) return FrameError::kBadAuthTag;
  if (!found->received.Accept(header.frame_seq)) return FrameError::kReplayed;
  *session = found;
  return Epoch(header.epoch) == epoch_ ? FrameError::kOk : FrameError::kStaleEpoch;
}

}  // namespace tributary

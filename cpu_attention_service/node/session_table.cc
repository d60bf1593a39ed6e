#include "cpu_attention_service/node/session_table.h"

#include "base/check.h"

namespace tributary {

Session& SessionTable::Add(const WorkerIdentity& worker, PeerId peer, int64_t now_ns) {
  TRIBUTARY_CHECK_LT(sessions_.size(), kMaxSessions);
  SessionId id;
  do id = SessionId(ids_());
  while (sessions_.contains(id));
  Session& session = sessions_[id];
  session.id = id;
  FillRandom(std::as_writable_bytes(std::span(session.keys.header)));
  if (with_mac_) FillRandom(session.keys.payload.emplace());
  session.incoming = FrameSeal(session.keys, FrameDirection::kToNode);
  session.outgoing = FrameSeal(session.keys, FrameDirection::kToWorker);
  session.peer = peer;
  session.worker = worker;
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
    if (session.worker.id == worker_id) return &session;
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

FrameError SessionTable::Authenticate(const FrameHeader& header, std::span<const std::byte> payload,
                                      Session** session) {
  *session = nullptr;
  Session* found = Find(SessionId(header.session_id));
  if (found == nullptr) return FrameError::kUnknownSession;
  if (!found->incoming.VerifyHeader(header)) return FrameError::kBadAuthTag;
  if (!found->received.Accept(header.frame_seq)) return FrameError::kReplayed;
  *session = found;
  return found->incoming.VerifyPayload(header, payload) ? FrameError::kOk : FrameError::kBadPayload;
}

}  // namespace tributary

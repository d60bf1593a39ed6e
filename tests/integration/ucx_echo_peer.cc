// The other process of ucx_data_plane_test: sends every frame back to the peer it was told to
// connect to.
//
//   ucx_echo_peer TLS RECV_ARENA_BYTES
// prints its address in hex, reads the test's address in hex, echoes until its stdin closes. A
// frame whose header has flags = 1 is echoed as bulk; one with flags = 2 is not echoed at all.
#include <fcntl.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <iostream>
#include <string>
#include <vector>

#include "absl/strings/escaping.h"
#include "base/log.h"
#include "transport/idle_strategy.h"
#include "transport/ucx/ucx_data_plane.h"

namespace tributary {
namespace {

class Echo : public FrameHandler {
 public:
  Echo(DataPlane& plane, PeerId peer) : plane_(plane), peer_(peer) {}

  void OnFrame(std::span<const std::byte> header, std::span<const std::byte> payload) override {
    FrameHeader decoded;
    if (header.size() != sizeof(decoded)) return;
    std::memcpy(&decoded, header.data(), sizeof(decoded));
    if (decoded.flags == 2) return;
    waiting_.push_back({decoded, {payload.begin(), payload.end()}});
  }
  void OnPeerError(PeerId, const absl::Status&) override { peer_failed_ = true; }

  void SendWaiting() {
    size_t sent = 0;
    for (const Answer& answer : waiting_) {
      if (peer_failed_) break;
      absl::StatusOr<FrameBuffer> frame = plane_.AllocateFrame(answer.payload.size());
      if (!frame.ok()) break;
      frame->header() = answer.header;
      if (!answer.payload.empty()) {
        std::memcpy(frame->payload().data(), answer.payload.data(), answer.payload.size());
      }
      const auto send_class = answer.header.flags == 1 ? SendClass::kBulk : SendClass::kEager;
      if (!plane_.Send(peer_, *std::move(frame), send_class).ok()) break;
      ++sent;
    }
    waiting_.erase(waiting_.begin(), waiting_.begin() + static_cast<ptrdiff_t>(sent));
  }

 private:
  struct Answer {
    FrameHeader header;
    std::vector<std::byte> payload;
  };
  DataPlane& plane_;
  PeerId peer_;
  bool peer_failed_ = false;
  std::vector<Answer> waiting_;
};

int Main(int argc, char** argv) {
  if (argc != 3 || !InitLogging("ucx_echo_peer", "warn").ok()) return 2;
  UcxOptions options;
  options.tls = argv[1];
  options.recv_arena_bytes = std::strtoull(argv[2], nullptr, 10);
  auto plane = MakeUcxDataPlane(options);
  if (!plane.ok()) {
    std::cerr << plane.status() << std::endl;
    return 1;
  }
  std::cout << absl::BytesToHexString((*plane)->info().address) << std::endl;
  std::string address_hex;
  std::getline(std::cin, address_hex);
  const absl::StatusOr<PeerId> peer = (*plane)->Connect(absl::HexStringToBytes(address_hex));
  if (!peer.ok()) {
    std::cerr << peer.status() << std::endl;
    return 1;
  }
  Echo echo(**plane, *peer);
  const RealClock clock;
  IdleStrategy idle({}, &clock);
  fcntl(STDIN_FILENO, F_SETFL, O_NONBLOCK);
  char byte;
  while (read(STDIN_FILENO, &byte, 1) != 0) {
    idle.AfterPoll((*plane)->Poll(echo), **plane);
    echo.SendWaiting();
  }
  return 0;
}

}  // namespace
}  // namespace tributary

int main(int argc, char** argv) { return tributary::Main(argc, argv); }

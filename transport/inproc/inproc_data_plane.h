// DataPlane over InprocNetwork's hub. Made by InprocNetwork::Create().
#pragma once

#include <memory>
#include <string_view>
#include <vector>

#include "transport/data_plane.h"
#include "transport/inproc/inproc_hub.h"

namespace tributary {

class InprocDataPlane final : public DataPlane, private FrameBuffer::Owner {
 public:
  InprocDataPlane(std::shared_ptr<InprocNetwork::Hub> hub, std::shared_ptr<InprocNode> node,
                  const InprocOptions& options);
  ~InprocDataPlane() override;  // as if its process had ended

  const TransportInfo& info() const override { return info_; }
  absl::StatusOr<PeerId> Connect(std::string_view address) override;
  void Disconnect(PeerId peer) override;
  absl::StatusOr<FrameBuffer> AllocateFrame(size_t payload_bytes) override;
  absl::Status Send(PeerId peer, FrameBuffer frame, SendClass send_class) override;
  int Poll(FrameHandler& handler) override;
  void WaitForEvent(int64_t timeout_ns) override;
  void Wake() override;
  DataPlaneCounters counters() const override;

 private:
  void ReleaseFrame(std::byte* frame) override;
  // Takes from the inbox what may be handled now, in the order in which it became due.
  std::vector<InprocFrame> TakeVisible();

  const std::shared_ptr<InprocNetwork::Hub> hub_;
  const std::shared_ptr<InprocNode> node_;
  const InprocOptions options_;
  TransportInfo info_;
};

}  // namespace tributary

// A local cluster for `tributary eval`, which is started again when a process of it is lost.
#pragma once

#include <functional>
#include <memory>

#include "base/mutex.h"
#include "client/cli/local_cluster.h"
#include "client/eval/eval_command.h"

namespace tributary {

// Thread-compatible but for CancelAll(); use it on the main thread, as LocalCluster.
class LocalTarget : public EvalTarget {
 public:
  LocalTarget(ClusterOptions options, std::function<bool()> stop_requested)
      : options_(std::move(options)), stop_requested_(std::move(stop_requested)) {}

  // Errors as of LocalCluster::Start().
  absl::Status Start();
  absl::Status Stop();

  // REQUIRES: started.
  Client& client() override { return *client_; }
  absl::Status Renew(const absl::Status& error) override;
  void CancelAll() override;

 private:
  const ClusterOptions options_;
  const std::function<bool()> stop_requested_;
  std::unique_ptr<LocalCluster> cluster_;
  Mutex mutex_;  // of replacing the client, which the main thread alone does
  std::unique_ptr<Client> client_;
};

}  // namespace tributary

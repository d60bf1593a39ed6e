#include "client/cli/local_target.h"

#include "base/status.h"
#include "client/terminal/output.h"
#include "fmt/format.h"
#include "fmt/ranges.h"

namespace tributary {

absl::Status LocalTarget::Start() {
  TRIBUTARY_ASSIGN_OR_RETURN(cluster_, LocalCluster::Start(options_, stop_requested_));
  auto client = std::make_unique<Client>(cluster_->coordinator());
  MutexLock lock(&mutex_);
  client_ = std::move(client);
  return absl::OkStatus();
}

absl::Status LocalTarget::Stop() { return cluster_ == nullptr ? absl::OkStatus() : cluster_->Stop(); }

absl::Status LocalTarget::Renew(const absl::Status& error) {
  if (stop_requested_()) return absl::CancelledError("interrupted");
  const std::vector<std::string> deaths = cluster_->ReportDeaths();
  if (deaths.empty()) return absl::OkStatus();
  PrintErr("{}; {}: a new cluster is started\n", std::string(error.message()), fmt::join(deaths, "; "));
  (void)cluster_->Stop();  // it would name the dead again
  return Start();
}

void LocalTarget::CancelAll() {
  MutexLock lock(&mutex_);
  if (client_ != nullptr) client_->CancelAll();
}

}  // namespace tributary

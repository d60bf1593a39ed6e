// A program of somebody else: it takes an extent of a KV pool of its own, and asks a coordinator that is not there.
#include <cstdio>
#include <string>

#include "base/version.h"
#include "client/api/client.h"
#include "kv_store/arena.h"
#include "kv_store/block_pool.h"

int main() {
  std::printf("tributary %s\n", std::string(tributary::VersionText()).c_str());
  const absl::StatusOr<tributary::Arena> arena = tributary::Arena::Create({.bytes = 1 << 20});
  if (!arena.ok()) return 1;
  tributary::BlockPool pool(arena->memory(), 64 << 10);
  if (!pool.Acquire(1).ok()) return 2;
  tributary::Client client("127.0.0.1:1");
  const absl::StatusOr<tributary::v1::StatusResponse> status = client.Status(/*timeout_s=*/1);
  std::printf("%s\n", std::string(status.status().message()).c_str());
  return absl::IsUnavailable(status.status()) || absl::IsDeadlineExceeded(status.status()) ? 0 : 3;
}

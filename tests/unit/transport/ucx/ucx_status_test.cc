#include "transport/ucx/ucx_status.h"

#include <gtest/gtest.h>

#include <random>
#include <string>

#include "tests/unit/transport/test_plane.h"
#include "transport/ucx/ucx_address.h"

namespace tributary {
namespace {

TEST(UcxStatusTest, TellsGoneFromFullFromWrong) {
  EXPECT_TRUE(StatusFromUcx(UCS_OK, "x").ok());
  EXPECT_TRUE(StatusFromUcx(UCS_INPROGRESS, "x").ok());
  EXPECT_TRUE(absl::IsUnavailable(StatusFromUcx(UCS_ERR_UNREACHABLE, "x")));
  EXPECT_TRUE(absl::IsUnavailable(StatusFromUcx(UCS_ERR_CONNECTION_RESET, "x")));
  EXPECT_TRUE(absl::IsUnavailable(StatusFromUcx(UCS_ERR_ENDPOINT_TIMEOUT, "x")));
  EXPECT_TRUE(absl::IsResourceExhausted(StatusFromUcx(UCS_ERR_NO_MEMORY, "x")));
  EXPECT_TRUE(absl::IsInvalidArgument(StatusFromUcx(UCS_ERR_INVALID_PARAM, "x")));
  const absl::Status status = StatusFromUcx(UCS_ERR_NO_DEVICE, "starting UCX");
  EXPECT_EQ(std::string(status.message()), std::string("starting UCX: ") + ucs_status_string(UCS_ERR_NO_DEVICE));
}

TEST(UcxAddressTest, RoundTrip) {
  const UcxAddress address{.major = 1, .minor = 13, .settings_version = 5, .worker_address = std::string("a\0b", 3)};
  const auto decoded = DecodeUcxAddress(EncodeUcxAddress(address));
  ASSERT_TRUE(decoded.ok()) << decoded.status();
  EXPECT_EQ(decoded->major, 1);
  EXPECT_EQ(decoded->minor, 13);
  EXPECT_EQ(decoded->settings_version, 5u);
  EXPECT_EQ(decoded->worker_address, address.worker_address);
}

TEST(UcxAddressTest, EveryCutAndEveryChangedPayloadByteIsRefused) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  std::string worker_address(64 + random() % 64, '\0');
  for (char& c : worker_address) c = static_cast<char>(random());
  const std::string good = EncodeUcxAddress({.major = 1, .minor = 13, .worker_address = worker_address});
  for (size_t size = 0; size < good.size(); ++size) {
    EXPECT_FALSE(DecodeUcxAddress(good.substr(0, size)).ok()) << size;
  }
  for (size_t i = 0; i < good.size(); ++i) {
    if (i >= 4 && i < 12) continue;  // release and settings, which Connect() compares
    std::string bad = good;
    bad[i] = static_cast<char>(bad[i] ^ (1 << random() % 8));
    EXPECT_FALSE(DecodeUcxAddress(bad).ok()) << i;
  }
}

}  // namespace
}  // namespace tributary

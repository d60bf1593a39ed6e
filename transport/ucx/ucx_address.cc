#include "transport/ucx/ucx_address.h"

#include <bit>
#include <cstddef>
#include <cstring>

#include "base/siphash.h"
#include "fmt/format.h"

namespace tributary {
namespace {

static_assert(std::endian::native == std::endian::little);

constexpr char kMagic[4] = {'T', 'U', 'A', '1'};
constexpr SipKey kChecksumKey = {0x7472696275746172, 0x792e756378616464};
constexpr size_t kMaxWorkerAddressBytes = 64 << 10;

struct EnvelopeHeader {
  char magic[4];
  uint16_t major;
  uint16_t minor;
  uint32_t worker_address_bytes;
  uint32_t checksum[2];  // not one uint64_t, which would leave a gap before it
};
static_assert(sizeof(EnvelopeHeader) == 20);

void Checksum(std::string_view bytes, uint32_t checksum[2]) {
  const uint64_t tag =
      SipHash24(kChecksumKey, {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
  checksum[0] = static_cast<uint32_t>(tag);
  checksum[1] = static_cast<uint32_t>(tag >> 32);
}

}  // namespace

std::string EncodeUcxAddress(const UcxAddress& address) {
  EnvelopeHeader header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.major = address.major;
  header.minor = address.minor;
  header.worker_address_bytes = static_cast<uint32_t>(address.worker_address.size());
  Checksum(address.worker_address, header.checksum);
  return std::string(reinterpret_cast<const char*>(&header), sizeof(header)) +
         address.worker_address;
}

absl::StatusOr<UcxAddress> DecodeUcxAddress(std::string_view bytes) {
  const auto error = [](std::string_view what) {
    return absl::InvalidArgumentError(fmt::format(
        "not the address of a UCX data plane: {}; pass TransportInfo.address as the peer sent it",
        what));
  };
  EnvelopeHeader header;
  if (bytes.size() < sizeof(header)) return error(fmt::format("{} bytes long", bytes.size()));
  std::memcpy(&header, bytes.data(), sizeof(header));
  bytes.remove_prefix(sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) return error("bad magic");
  if (header.worker_address_bytes != bytes.size() || bytes.size() > kMaxWorkerAddressBytes) {
    return error(
        fmt::format("says {} bytes and has {}", header.worker_address_bytes, bytes.size()));
  }
  uint32_t checksum[2];
  Checksum(bytes, checksum);
  if (std::memcmp(checksum, header.checksum, sizeof(checksum)) != 0) return error("bad checksum");
  return UcxAddress{header.major, header.minor, std::string(bytes)};
}

}  // namespace tributary

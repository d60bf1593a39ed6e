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
  uint32_t settings_version;
  uint32_t worker_address_bytes;
  uint64_t checksum;
};
static_assert(sizeof(EnvelopeHeader) == 24);

uint64_t Checksum(std::string_view bytes) {
  return SipHash24(kChecksumKey, {reinterpret_cast<const std::byte*>(bytes.data()), bytes.size()});
}

}  // namespace

std::string EncodeUcxAddress(const UcxAddress& address) {
  EnvelopeHeader header{};
  std::memcpy(header.magic, kMagic, sizeof(kMagic));
  header.major = address.major;
  header.minor = address.minor;
  header.worker_address_bytes = static_cast<uint32_t>(address.worker_address.size());
  header.settings_version = address.settings_version;
  header.checksum = Checksum(address.worker_address);
  return std::string(reinterpret_cast<const char*>(&header), sizeof(header)) + address.worker_address;
}

absl::StatusOr<UcxAddress> DecodeUcxAddress(std::string_view bytes) {
  const auto error = [](std::string_view what) {
    return absl::InvalidArgumentError(
        fmt::format("not the address of a UCX data plane: {}; pass TransportInfo.address as the peer sent it", what));
  };
  EnvelopeHeader header;
  if (bytes.size() < sizeof(header)) return error(fmt::format("{} bytes long", bytes.size()));
  std::memcpy(&header, bytes.data(), sizeof(header));
  bytes.remove_prefix(sizeof(header));
  if (std::memcmp(header.magic, kMagic, sizeof(kMagic)) != 0) return error("bad magic");
  if (header.worker_address_bytes != bytes.size() || bytes.size() > kMaxWorkerAddressBytes) {
    return error(fmt::format("says {} bytes and has {}", header.worker_address_bytes, bytes.size()));
  }
  if (header.checksum != Checksum(bytes)) return error("bad checksum");
  return UcxAddress{header.major, header.minor, header.settings_version, std::string(bytes)};
}

}  // namespace tributary

#include "model/safetensors.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <limits>
#include <optional>

#include "absl/status/status.h"
#include "base/status.h"
#include "fmt/format.h"
#include "fmt/ranges.h"
#include "model/json_text.h"
#include "model/model_file.h"

namespace tributary {
namespace {

using nlohmann::json;

// 200 bytes of header per tensor: enough for 300,000 tensors, and a bound on what a hostile file
// can make us parse.
constexpr uint64_t kMaxHeaderBytes = 64u << 20;
constexpr size_t kHeaderSizeBytes = 8;
constexpr size_t kMaxRank = 8;

struct TypeRow {
  TensorType type;
  std::string_view name;
  size_t bytes;
  DType dtype;
};
constexpr std::array<TypeRow, 13> kTypes = {{
    {TensorType::kF64, "F64", 8, DType::kUnset},
    {TensorType::kF32, "F32", 4, DType::kF32},
    {TensorType::kBf16, "BF16", 2, DType::kBf16},
    {TensorType::kF16, "F16", 2, DType::kF16},
    {TensorType::kI64, "I64", 8, DType::kUnset},
    {TensorType::kI32, "I32", 4, DType::kUnset},
    {TensorType::kI16, "I16", 2, DType::kUnset},
    {TensorType::kI8, "I8", 1, DType::kUnset},
    {TensorType::kU64, "U64", 8, DType::kUnset},
    {TensorType::kU32, "U32", 4, DType::kUnset},
    {TensorType::kU16, "U16", 2, DType::kUnset},
    {TensorType::kU8, "U8", 1, DType::kUnset},
    {TensorType::kBool, "BOOL", 1, DType::kUnset},
}};

const TypeRow& Row(TensorType type) { return kTypes[static_cast<size_t>(type)]; }

std::optional<TensorType> ParseType(std::string_view name) {
  for (const TypeRow& row : kTypes) {
    if (row.name == name) return row.type;
  }
  return std::nullopt;
}

absl::Status Corrupt(const std::string& where, const std::string& what) {
  return absl::InvalidArgumentError(fmt::format("{}: {}; the file is damaged or is no safetensors file", where, what));
}

// One header entry, before its bytes are cut out of the data.
struct Entry {
  TensorView view;
  uint64_t begin = 0;  // relative to the data
  uint64_t end = 0;
};

absl::Status ParseShape(const std::string& where, const json& field, std::vector<uint64_t>& shape) {
  if (!field.is_array() || field.size() > kMaxRank) {
    return Corrupt(where, fmt::format("shape is {}, expected at most {} sizes", BriefJson(field), kMaxRank));
  }
  for (const json& size : field) {
    if (!size.is_number_unsigned()) {
      return Corrupt(where, fmt::format("shape {} holds a size that is no unsigned integer", BriefJson(field)));
    }
    shape.push_back(size.get<uint64_t>());
  }
  return absl::OkStatus();
}

absl::Status ParseOffsets(const std::string& where, const json& field, Entry& entry) {
  if (!field.is_array() || field.size() != 2 || !field[0].is_number_unsigned() || !field[1].is_number_unsigned()) {
    return Corrupt(where, fmt::format("data_offsets is {}, expected [begin, end]", BriefJson(field)));
  }
  entry.begin = field[0].get<uint64_t>();
  entry.end = field[1].get<uint64_t>();
  if (entry.end < entry.begin) {
    return Corrupt(where, fmt::format("data_offsets [{}, {}] end before they begin", entry.begin, entry.end));
  }
  return absl::OkStatus();
}

// Product of the shape and the element size; nullopt when it does not fit 64 bits.
std::optional<uint64_t> TensorBytes(const TensorView& view) {
  uint64_t bytes = TensorTypeBytes(view.type);
  for (uint64_t size : view.shape) {
    if (__builtin_mul_overflow(bytes, size, &bytes)) return std::nullopt;
  }
  return bytes;
}

absl::StatusOr<Entry> ParseEntry(const std::string& where, const std::string& name, const json& field) {
  if (!field.is_object()) {
    return Corrupt(where, fmt::format("its entry is {}, expected an object", BriefJson(field)));
  }
  for (const char* key : {"dtype", "shape", "data_offsets"}) {
    if (!field.contains(key)) return Corrupt(where, fmt::format("its entry has no '{}'", key));
  }
  Entry entry;
  entry.view.name = name;
  const json& type_field = field["dtype"];
  const std::optional<TensorType> type =
      type_field.is_string() ? ParseType(type_field.get_ref<const std::string&>()) : std::nullopt;
  if (!type.has_value()) {
    return absl::InvalidArgumentError(
        fmt::format("{}: dtype {} is not supported; weights must be F32, BF16 or F16", where, BriefJson(type_field)));
  }
  entry.view.type = *type;
  TRIBUTARY_RETURN_IF_ERROR(ParseShape(where, field["shape"], entry.view.shape));
  TRIBUTARY_RETURN_IF_ERROR(ParseOffsets(where, field["data_offsets"], entry));
  const std::optional<uint64_t> bytes = TensorBytes(entry.view);
  if (!bytes.has_value() || *bytes != entry.end - entry.begin) {
    return Corrupt(where, fmt::format("{} takes {} bytes, but data_offsets [{}, {}] span {}", Describe(entry.view),
                                      bytes.has_value() ? std::to_string(*bytes) : "more than 2^64", entry.begin,
                                      entry.end, entry.end - entry.begin));
  }
  return entry;
}

// The tensors must tile the data: no overlap, no hole, nothing behind the last.
absl::Status CheckTiling(const std::string& file, std::vector<Entry>& entries, uint64_t data_bytes) {
  std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
    return std::tie(a.begin, a.end, a.view.name) < std::tie(b.begin, b.end, b.view.name);
  });
  uint64_t covered = 0;
  for (const Entry& entry : entries) {
    const std::string where = fmt::format("{}: tensor '{}'", file, entry.view.name);
    if (entry.end > data_bytes) {
      return Corrupt(where, fmt::format("data_offsets [{}, {}] reach beyond the {} bytes of data (truncated?)",
                                        entry.begin, entry.end, data_bytes));
    }
    if (entry.begin != covered) {
      return Corrupt(where, fmt::format("data_offsets [{}, {}] {} the tensor before it, which ends at {}", entry.begin,
                                        entry.end, entry.begin < covered ? "overlap" : "leave a hole after", covered));
    }
    covered = entry.end;
  }
  if (covered != data_bytes) {
    return Corrupt(file, fmt::format("{} bytes of data, but its tensors end at {}", data_bytes, covered));
  }
  return absl::OkStatus();
}

absl::StatusOr<std::string_view> HeaderText(const std::string& file, std::span<const std::byte> bytes) {
  TRIBUTARY_RETURN_IF_ERROR(CheckNoLfsPointer(file, {reinterpret_cast<const char*>(bytes.data()), bytes.size()}));
  if (bytes.size() < kHeaderSizeBytes) {
    return Corrupt(file, fmt::format("truncated: {} bytes, shorter than the 8-byte header size", bytes.size()));
  }
  uint64_t header_bytes = 0;
  std::memcpy(&header_bytes, bytes.data(), sizeof(header_bytes));
  if (header_bytes > kMaxHeaderBytes) {
    return Corrupt(file, fmt::format("header of {} bytes, at most {} are allowed", header_bytes, kMaxHeaderBytes));
  }
  if (header_bytes > bytes.size() - kHeaderSizeBytes) {
    return Corrupt(file, fmt::format("truncated: header of {} bytes, but {} bytes follow its size", header_bytes,
                                     bytes.size() - kHeaderSizeBytes));
  }
  return std::string_view(reinterpret_cast<const char*>(bytes.data()) + kHeaderSizeBytes, header_bytes);
}

absl::Status ParseMetadata(const std::string& file, const json& field,
                           std::map<std::string, std::string, std::less<>>& metadata) {
  if (!field.is_object()) return Corrupt(file, fmt::format("__metadata__ is {}", BriefJson(field)));
  for (const auto& [key, value] : field.items()) {
    if (!value.is_string()) {
      return Corrupt(file, fmt::format("__metadata__ '{}' is {}, expected a string", key, BriefJson(value)));
    }
    metadata.emplace(key, value.get<std::string>());
  }
  return absl::OkStatus();
}

}  // namespace

std::string_view TensorTypeName(TensorType type) { return Row(type).name; }
size_t TensorTypeBytes(TensorType type) { return Row(type).bytes; }
DType ToDType(TensorType type) { return Row(type).dtype; }

std::string Describe(const TensorView& tensor) {
  return fmt::format("{} [{}]", TensorTypeName(tensor.type), fmt::join(tensor.shape, ", "));
}

absl::StatusOr<std::vector<float>> ReadF32(const TensorView& tensor) {
  const DType dtype = ToDType(tensor.type);
  if (!IsValidDType(dtype)) {
    return absl::InvalidArgumentError(
        fmt::format("tensor '{}' is {}, expected F32, BF16 or F16", tensor.name, Describe(tensor)));
  }
  std::vector<float> values(tensor.num_elements());
  ConvertToF32(dtype, tensor.bytes.data(), values.size(), values.data());
  return values;
}

absl::StatusOr<std::vector<int32_t>> ReadI32(const TensorView& tensor) {
  if (tensor.type != TensorType::kI32) {
    return absl::InvalidArgumentError(fmt::format("tensor '{}' is {}, expected I32", tensor.name, Describe(tensor)));
  }
  std::vector<int32_t> values(tensor.num_elements());
  if (!values.empty()) std::memcpy(values.data(), tensor.bytes.data(), tensor.bytes.size());
  return values;
}

absl::StatusOr<SafetensorsFile> SafetensorsFile::Open(const std::filesystem::path& path) {
  SafetensorsFile file;
  file.path_ = path;
  TRIBUTARY_ASSIGN_OR_RETURN(file.file_, MappedFile::Open(path));
  TRIBUTARY_RETURN_IF_ERROR(file.Parse());
  return file;
}

absl::Status SafetensorsFile::Parse() {
  const std::string file = path_.string();
  TRIBUTARY_ASSIGN_OR_RETURN(const std::string_view text, HeaderText(file, file_.bytes()));
  TRIBUTARY_ASSIGN_OR_RETURN(const json header, ParseJsonObject(text, file + ": header"));
  std::vector<Entry> entries;
  for (const auto& [name, field] : header.items()) {
    if (name == "__metadata__") {
      TRIBUTARY_RETURN_IF_ERROR(ParseMetadata(file, field, metadata_));
      continue;
    }
    TRIBUTARY_ASSIGN_OR_RETURN(Entry entry, ParseEntry(fmt::format("{}: tensor '{}'", file, name), name, field));
    entries.push_back(std::move(entry));
  }
  const std::span<const std::byte> data = file_.bytes().subspan(kHeaderSizeBytes + text.size());
  TRIBUTARY_RETURN_IF_ERROR(CheckTiling(file, entries, data.size()));
  for (Entry& entry : entries) {
    entry.view.bytes = data.subspan(entry.begin, entry.end - entry.begin);
    index_.emplace(entry.view.name, tensors_.size());
    tensors_.push_back(std::move(entry.view));
  }
  return absl::OkStatus();
}

absl::StatusOr<const TensorView*> SafetensorsFile::Find(std::string_view name) const {
  const auto found = index_.find(name);
  if (found == index_.end()) {
    return absl::NotFoundError(fmt::format("{}: no tensor '{}' among its {}", path_.string(), name, tensors_.size()));
  }
  return &tensors_[found->second];
}

}  // namespace tributary

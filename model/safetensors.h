// Reader of one .safetensors file: u64 header size, JSON header {name: {dtype, shape,
// data_offsets}}, tensor data. Every offset and size is checked before it is used; the file is
// memory-mapped and tensors are views into the map.
//
//   TRIBUTARY_ASSIGN_OR_RETURN(const SafetensorsFile golden,
//   SafetensorsFile::Open("tests/golden/llama2.safetensors")); TRIBUTARY_ASSIGN_OR_RETURN(const
//   TensorView* logits, golden.Find("prompt_logits")); TRIBUTARY_ASSIGN_OR_RETURN(const
//   std::vector<float> values, ReadF32(*logits));
#pragma once

#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/statusor.h"
#include "base/dtype.h"
#include "model/mapped_file.h"

namespace tributary {

// Element types of the format. Weights may be kF32, kBf16 or kF16; the others appear in golden
// files.
enum class TensorType : uint8_t { kF64, kF32, kBf16, kF16, kI64, kI32, kI16, kI8, kU64, kU32, kU16, kU8, kBool };

std::string_view TensorTypeName(TensorType type);  // as the format writes it: "F32", "BF16", ...
size_t TensorTypeBytes(TensorType type);
DType ToDType(TensorType type);  // kUnset for what is no storage dtype

// Borrowed from the file, whose map must outlive it.
struct TensorView {
  std::string name;
  TensorType type = TensorType::kF32;
  std::vector<uint64_t> shape;       // row-major; {} is a scalar
  std::span<const std::byte> bytes;  // exactly num_elements() * TensorTypeBytes(type), at any alignment

  uint64_t num_elements() const { return bytes.size() / TensorTypeBytes(type); }
};

// "F32 [2, 3]" for messages.
std::string Describe(const TensorView& tensor);

// Copies out; F32, BF16 and F16 become f32. INVALID_ARGUMENT naming the tensor for another type.
absl::StatusOr<std::vector<float>> ReadF32(const TensorView& tensor);
// I32 only.
absl::StatusOr<std::vector<int32_t>> ReadI32(const TensorView& tensor);

// Immutable once opened; thread-safe. Views stay valid when it is moved.
class SafetensorsFile {
 public:
  // NOT_FOUND without the file; INVALID_ARGUMENT with file, tensor and values for anything the
  // format forbids: truncated, trailing bytes, oversized header, duplicate names, overlaps, holes,
  // out-of-range offsets, a size that differs from shape times dtype; and for a Git LFS pointer.
  static absl::StatusOr<SafetensorsFile> Open(const std::filesystem::path& path);

  const std::filesystem::path& path() const { return path_; }
  std::span<const TensorView> tensors() const { return tensors_; }  // in the order of their data
  bool Contains(std::string_view name) const { return index_.find(name) != index_.end(); }
  // NOT_FOUND naming file and tensor.
  absl::StatusOr<const TensorView*> Find(std::string_view name) const;
  // The header's "__metadata__" strings.
  const std::map<std::string, std::string, std::less<>>& metadata() const { return metadata_; }

 private:
  absl::Status Parse();

  std::filesystem::path path_;
  MappedFile file_;
  std::vector<TensorView> tensors_;
  std::map<std::string, size_t, std::less<>> index_;
  std::map<std::string, std::string, std::less<>> metadata_;
};

}  // namespace tributary

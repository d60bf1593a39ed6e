#include "model/safetensors.h"

#include <bit>
#include <cstring>
#include <random>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/random_model.h"
#include "tests/testutil/test_seed.h"

namespace tributary {
namespace {

using ::testing::AllOf;
using ::testing::ElementsAre;
using ::testing::HasSubstr;

// A file with this header text and `data_bytes` zero bytes behind it.
std::string FileBytes(const std::string& header, size_t data_bytes) {
  const uint64_t size = header.size();
  std::string file(sizeof(size), '\0');
  std::memcpy(file.data(), &size, sizeof(size));
  return file + header + std::string(data_bytes, '\0');
}

class SafetensorsTest : public ::testing::Test {
 protected:
  absl::StatusOr<SafetensorsFile> OpenBytes(const std::string& bytes) {
    WriteFile(dir_ / "t.safetensors", bytes);
    return SafetensorsFile::Open(dir_ / "t.safetensors");
  }
  // The message with which a file of this header is refused; "" when it is accepted.
  std::string Refusal(const std::string& header, size_t data_bytes) {
    return std::string(OpenBytes(FileBytes(header, data_bytes)).status().message());
  }

  TempDir dir_;
};

TEST_F(SafetensorsTest, ReadsTensorsOfEachFloatType) {
  for (const DType dtype : {DType::kF32, DType::kBf16, DType::kF16}) {
    const StoredTensors stored = {{"a", {{2, 3}, {1, -2, 3, 0.5, 0, -0.25}}}, {"b", {{}, {7}}}, {"c", {{0, 4}, {}}}};
    const auto file = OpenBytes(SafetensorsBytes(stored, dtype));
    ASSERT_TRUE(file.ok()) << file.status();
    EXPECT_EQ(file->metadata().at("format"), "pt");
    EXPECT_EQ(file->tensors().size(), 3u);
    const TensorView& a = **file->Find("a");
    EXPECT_THAT(a.shape, ElementsAre(2, 3));
    EXPECT_EQ(ToDType(a.type), dtype);
    EXPECT_THAT(*ReadF32(a), ElementsAre(1, -2, 3, 0.5, 0, -0.25));
    EXPECT_THAT(*ReadF32(**file->Find("b")), ElementsAre(7));
    EXPECT_EQ((*file->Find("c"))->num_elements(), 0u);
  }
}

TEST_F(SafetensorsTest, ReadsIntegersAndRefusesToMixTypes) {
  std::string bytes = FileBytes(R"({"ids":{"dtype":"I32","shape":[2],"data_offsets":[0,8]}})", 8);
  bytes[bytes.size() - 8] = 42;
  const auto file = OpenBytes(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  const TensorView& ids = **file->Find("ids");
  EXPECT_THAT(*ReadI32(ids), ElementsAre(42, 0));
  EXPECT_THAT(std::string(ReadF32(ids).status().message()), HasSubstr("tensor 'ids' is I32 [2], expected F32"));
}

TEST_F(SafetensorsTest, MissingFileAndTensorAreNotFound) {
  const auto missing = SafetensorsFile::Open(dir_ / "absent.safetensors");
  EXPECT_TRUE(absl::IsNotFound(missing.status())) << missing.status();
  EXPECT_THAT(std::string(missing.status().message()), HasSubstr("absent.safetensors"));
  const auto file = OpenBytes(FileBytes("{}", 0));
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_TRUE(absl::IsNotFound(file->Find("w").status()));
  EXPECT_FALSE(SafetensorsFile::Open(dir_.path()).ok());
}

// The format asks for no alignment: Hugging Face loads such files.
TEST_F(SafetensorsTest, ReadsTensorsAtAnyAlignment) {
  std::string bytes = FileBytes(
      R"({"a":{"dtype":"U8","shape":[1],"data_offsets":[0,1]},"w":{"dtype":"F32","shape":[1],"data_offsets":[1,5]}})",
      5);
  const float value = 1.5f;
  std::memcpy(bytes.data() + bytes.size() - sizeof(value), &value, sizeof(value));
  const auto file = OpenBytes(bytes);
  ASSERT_TRUE(file.ok()) << file.status();
  EXPECT_EQ((*ReadF32(**file->Find("w")))[0], value);
}

TEST_F(SafetensorsTest, NamesAGitLfsPointer) {
  const std::string pointer = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n";
  EXPECT_THAT(std::string(OpenBytes(pointer).status().message()),
              AllOf(HasSubstr("Git LFS pointer"), HasSubstr("git lfs pull")));
}

TEST_F(SafetensorsTest, RefusesDamagedFiles) {
  EXPECT_THAT(std::string(OpenBytes("").status().message()), HasSubstr("truncated: 0 bytes"));
  EXPECT_THAT(std::string(OpenBytes("1234567").status().message()), HasSubstr("truncated: 7 bytes"));
  std::string huge = FileBytes("{}", 0);
  for (int i = 0; i < 8; ++i) huge[static_cast<size_t>(i)] = '\xff';
  EXPECT_THAT(std::string(OpenBytes(huge).status().message()), HasSubstr("header of 18446744073709551615 bytes"));
  std::string longer = FileBytes("{}", 0);
  longer[0] = 100;
  EXPECT_THAT(std::string(OpenBytes(longer).status().message()), HasSubstr("truncated: header of 100 bytes"));
  EXPECT_THAT(Refusal("{", 0), HasSubstr("malformed JSON"));
  EXPECT_THAT(Refusal("[1]", 0), HasSubstr("expected a JSON object"));
  EXPECT_THAT(Refusal(std::string(100000, '['), 0), HasSubstr("nests deeper"));
  EXPECT_THAT(Refusal("{\"a\":\"\xff\"}", 0), HasSubstr("malformed JSON"));
  EXPECT_THAT(Refusal(R"({"__metadata__":{"a":1}})", 0), HasSubstr("__metadata__ 'a' is 1"));
}

struct BadHeader {
  const char* header;
  size_t data_bytes;
  const char* message;
};

TEST_F(SafetensorsTest, RefusesBadHeadersNamingFileTensorAndValues) {
  const BadHeader cases[] = {
      {R"({"w":3})", 0, "its entry is 3"},
      {R"({"w":{"dtype":"F32","shape":[1]}})", 4, "no 'data_offsets'"},
      {R"({"w":{"dtype":"F8_E4M3","shape":[1],"data_offsets":[0,1]}})", 1, "dtype \"F8_E4M3\" is not supported"},
      {R"({"w":{"dtype":1,"shape":[1],"data_offsets":[0,1]}})", 1, "dtype 1 is not supported"},
      {R"({"w":{"dtype":"F32","shape":1,"data_offsets":[0,4]}})", 4, "shape is 1"},
      {R"({"w":{"dtype":"F32","shape":[-1],"data_offsets":[0,4]}})", 4, "shape [-1]"},
      {R"({"w":{"dtype":"F32","shape":[1.5],"data_offsets":[0,4]}})", 4, "shape [1.5]"},
      {R"({"w":{"dtype":"F32","shape":[1,1,1,1,1,1,1,1,1],"data_offsets":[0,4]}})", 4, "at most 8 sizes"},
      {R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0]}})", 4, "data_offsets is [0]"},
      {R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,-4]}})", 4, "data_offsets is [0,-4]"},
      {R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[4,0]}})", 4, "[4, 0] end before they begin"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,4]}})", 4, "F32 [2] takes 8 bytes"},
      {R"({"w":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]}})", 0, "more than 2^64"},
      {R"({"w":{"dtype":"F32","shape":[2],"data_offsets":[0,8]}})", 7, "[0, 8] reach beyond the 7 bytes"},
      {R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}})", 5, "5 bytes of data, but its tensors end at 4"},
      {R"({"a":{"dtype":"F32","shape":[2],"data_offsets":[0,8]},"w":{"dtype":"F32","shape":[2],"data_offsets":[4,12]}})",
       12, "[4, 12] overlap the tensor before it, which ends at 8"},
      {R"({"a":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[8,12]}})",
       12, "[8, 12] leave a hole after the tensor before it, which ends at 4"},
      {R"({"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]},"w":{"dtype":"F32","shape":[1],"data_offsets":[4,8]}})",
       8, "names 'w' twice"},
  };
  for (const BadHeader& bad : cases) {
    EXPECT_THAT(Refusal(bad.header, bad.data_bytes), AllOf(HasSubstr("t.safetensors"), HasSubstr(bad.message)));
  }
}

// Any truncation and any flipped byte is either refused or leaves tensors inside the file (ASan
// watches the reads).
TEST_F(SafetensorsTest, SurvivesRandomDamage) {
  const uint64_t seed = TestSeed();
  SCOPED_TRACE(seed);
  std::mt19937_64 random(seed);
  RandomModelOptions options;
  options.num_layers = 1;
  options.hidden_size = 8;
  const std::string good = SafetensorsBytes(RandomModelTensors(options), DType::kBf16);
  for (int i = 0; i < 200; ++i) {
    std::string bad = good;
    if (i % 2 == 0) {
      bad.resize(random() % good.size());
      EXPECT_FALSE(OpenBytes(bad).ok());
      continue;
    }
    bad[random() % 2000] ^= static_cast<char>(1 + random() % 255);
    const auto file = OpenBytes(bad);
    if (!file.ok()) continue;
    for (const TensorView& tensor : file->tensors()) (void)ReadF32(tensor);
  }
}

}  // namespace
}  // namespace tributary

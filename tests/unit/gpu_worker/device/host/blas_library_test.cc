#include "gpu_worker/device/host/blas_library.h"

#include <cstdlib>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace tributary {
namespace {

// Before Get(), which sets it.
const bool kUserHasChosen = std::getenv("OPENBLAS_CORETYPE") != nullptr;

TEST(BlasLibraryTest, MultipliesAndIsLoadedOnce) {
  const absl::StatusOr<const BlasLibrary*> library = BlasLibrary::Get();
  ASSERT_TRUE(library.ok()) << library.status();
  EXPECT_EQ(*library, &BlasLibrary::Loaded());
  const std::vector<float> a = {1, 2, 3, 4, 5, 6};     // [2][3]
  const std::vector<float> b = {1, 0, 0, 1, 10, 100};  // [3][2]
  std::vector<float> c(4);
  (*library)->sgemm(CblasRowMajor, CblasNoTrans, CblasNoTrans, 2, 2, 3, 1, a.data(), 3, b.data(), 2, 0, c.data(), 2);
  EXPECT_EQ(c, (std::vector<float>{31, 302, 64, 605}));
  std::vector<float> y(2);
  (*library)->sgemv(CblasRowMajor, CblasNoTrans, 2, 3, 1, a.data(), 3, b.data(), 1, 0, y.data(), 1);
  EXPECT_EQ(y, (std::vector<float>{1, 4}));
}

// OpenBLAS takes SSE3 kernels, which it calls Prescott, for a processor that is newer than itself.
TEST(BlasLibraryTest, TakesTheWidestKernelsOfTheProcessor) {
#if defined(__x86_64__)
  if (kUserHasChosen) GTEST_SKIP() << "OPENBLAS_CORETYPE is set: the user has chosen";
  const absl::StatusOr<const BlasLibrary*> library = BlasLibrary::Get();
  ASSERT_TRUE(library.ok()) << library.status();
  const std::string core = (*library)->get_corename();
  if (__builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw")) {
    EXPECT_EQ(core, "SkylakeX");
  } else if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    EXPECT_EQ(core, "Haswell");
  }
#else
  GTEST_SKIP() << "the choice is OpenBLAS's own on this architecture";
#endif
}

}  // namespace
}  // namespace tributary

// Which kernel runs: by the machine, by name, by the environment.
#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>

#include "cpu_attention_service/kernels/kernels.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

TEST(KernelChoice, EachSupportedKernelCanBeForcedByTheEnvironment) {
  for (const CpuKernel& kernel : cpu_kernels::All()) {
    if (!cpu_kernels::IsSupported(kernel)) continue;
    ASSERT_EQ(setenv("TRIBUTARY_FORCE_CPU_KERNEL", kernel.name, 1), 0);
    const auto selected = cpu_kernels::Select("");
    const auto over_name = cpu_kernels::Select("scalar");
    unsetenv("TRIBUTARY_FORCE_CPU_KERNEL");
    ASSERT_TRUE(selected.ok()) << selected.status();
    EXPECT_EQ(*selected, &kernel);
    EXPECT_EQ(*over_name, &kernel);
  }
}

TEST(KernelChoice, AKernelThatTheMachineLacksIsAnErrorThatNamesWhatItHas) {
  for (const CpuKernel& kernel : cpu_kernels::All()) {
    if (cpu_kernels::IsSupported(kernel)) continue;
    const auto found = cpu_kernels::Find(kernel.name);
    EXPECT_EQ(found.status().code(), absl::StatusCode::kFailedPrecondition);
    EXPECT_THAT(std::string(found.status().message()), HasSubstr("scalar"));
  }
}

TEST(KernelChoice, TheBestIsTheFirstSupported) {
  for (const CpuKernel& kernel : cpu_kernels::All()) {
    if (!cpu_kernels::IsSupported(kernel)) continue;
    EXPECT_EQ(&cpu_kernels::Best(), &kernel);
    break;
  }
  EXPECT_STREQ(cpu_kernels::All().back().name, "scalar");
  EXPECT_EQ(cpu_kernels::All().back().required_isa, 0u);
}

TEST(KernelChoice, UnknownNamesAreErrorsThatListTheKernels) {
  const auto kernel = cpu_kernels::Select("mmx");
  EXPECT_EQ(kernel.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(kernel.status().message()), HasSubstr("'mmx'"));
  EXPECT_THAT(std::string(kernel.status().message()), HasSubstr("scalar"));
  setenv("TRIBUTARY_FORCE_CPU_KERNEL", "sse9", 1);
  const auto forced = cpu_kernels::Select("scalar");
  unsetenv("TRIBUTARY_FORCE_CPU_KERNEL");
  EXPECT_EQ(forced.status().code(), absl::StatusCode::kNotFound);
  EXPECT_THAT(std::string(forced.status().message()), HasSubstr("TRIBUTARY_FORCE_CPU_KERNEL"));
}

}  // namespace
}  // namespace tributary

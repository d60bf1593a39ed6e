#include "process/flags/security_flags.h"

#include "CLI/CLI.hpp"
#include "gtest/gtest.h"

namespace tributary {
namespace {

TEST(SecurityFlagsTest, EachFlagHasItsPlace) {
  CLI::App app;
  SecurityOptions options;
  AddSecurityFlags(app, &options);
  app.parse("--tls-cert a.crt --tls-key a.key --tls-ca ca.crt --cluster-secret-file s --insecure");
  EXPECT_EQ(options.tls.cert, "a.crt");
  EXPECT_EQ(options.tls.key, "a.key");
  EXPECT_EQ(options.tls.ca, "ca.crt");
  EXPECT_EQ(options.cluster_secret_file, "s");
  EXPECT_TRUE(options.insecure);
}

TEST(SecurityFlagsTest, NothingIsAskedForByDefault) {
  CLI::App app;
  SecurityOptions options;
  AddSecurityFlags(app, &options);
  app.parse("");
  EXPECT_TRUE(options.tls.empty());
  EXPECT_EQ(options.cluster_secret_file, "");
  EXPECT_FALSE(options.insecure);
}

}  // namespace
}  // namespace tributary

#include "rpc/security/cluster_secret.h"

#include <sys/stat.h>

#include <fstream>

#include "fmt/format.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/testutil/temp_dir.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;

constexpr char kPath[] = "/tributary.v1.NodeRegistry/Register";
constexpr int64_t kNowMs = 1'800'000'000'000;

std::shared_ptr<const ClusterSecret> SecretOf(const std::string& text) {
  return std::make_shared<const ClusterSecret>(text);
}

std::string WhyNot(const absl::StatusOr<PeerRole>& role) {
  EXPECT_EQ(role.status().code(), absl::StatusCode::kUnauthenticated);
  return std::string(role.status().message());
}

TEST(ClusterSecretTest, AMacIsWhatOthersComputeToo) {
  // printf 'tributary v1\nnode\n/a/B\n5\n00ff' | openssl dgst -sha256 -hmac 0123456789abcdef
  EXPECT_EQ(ClusterSecret("0123456789abcdef").Sign(PeerRole::kNode, "/a/B", 5, "00ff"),
            "v1 node 5 00ff 5b137110c986f1f558ea246fd8e5577ae0e943324bdd670fea32da1d2a232f3d");
}

TEST(ClusterSecretTest, ATokenSaysWhoMadeIt) {
  const auto secret = SecretOf("0123456789abcdef");
  TokenCheck check(secret);
  for (const PeerRole role : kPeerRoles) {
    const auto found = check.Check(secret->Sign(role, kPath, kNowMs, PeerRoleName(role)), kPath, kNowMs);
    ASSERT_TRUE(found.ok()) << found.status();
    EXPECT_EQ(*found, role);
  }
}

TEST(ClusterSecretTest, OtherTokensAreRefusedAndSayWhy) {
  const auto secret = SecretOf("0123456789abcdef");
  TokenCheck check(secret);
  EXPECT_THAT(WhyNot(check.Check("", kPath, kNowMs)), HasSubstr("--cluster-secret-file"));
  EXPECT_THAT(WhyNot(check.Check("v1 node", kPath, kNowMs)), HasSubstr("same release"));
  EXPECT_THAT(WhyNot(check.Check(std::string(1 << 20, ' '), kPath, kNowMs)), HasSubstr("same release"));
  const std::string token = secret->Sign(PeerRole::kNode, kPath, kNowMs, "aa");
  EXPECT_THAT(WhyNot(TokenCheck(SecretOf("0123456789abcdeF")).Check(token, kPath, kNowMs)),
              HasSubstr("secret is another"));
  EXPECT_THAT(WhyNot(check.Check(token, "/tributary.v1.CpuAttention/OpenShard", kNowMs)), HasSubstr("is another"));
  std::string promoted = token;
  promoted.replace(promoted.find("node"), 4, "worker");
  EXPECT_THAT(WhyNot(check.Check(promoted, kPath, kNowMs)), HasSubstr("is another"));
  EXPECT_THAT(WhyNot(check.Check(token, kPath, kNowMs + 61'000)), HasSubstr("61 s behind"));
  EXPECT_THAT(WhyNot(check.Check(token, kPath, kNowMs - 61'000)), HasSubstr("61 s ahead"));
  EXPECT_TRUE(check.Check(token, kPath, kNowMs + 59'000).ok());  // none of these has used it up
}

TEST(ClusterSecretTest, ATokenIsGoodOnce) {
  const auto secret = SecretOf("0123456789abcdef");
  TokenCheck check(secret);
  const std::string token = secret->Sign(PeerRole::kNode, kPath, kNowMs, "aa");
  EXPECT_TRUE(check.Check(token, kPath, kNowMs).ok());
  EXPECT_THAT(WhyNot(check.Check(token, kPath, kNowMs)), HasSubstr("used before"));
  // Also when it could be forgotten, since it is then too old.
  EXPECT_TRUE(check.Check(secret->Sign(PeerRole::kNode, kPath, kNowMs + 60'001, "bb"), kPath, kNowMs + 60'001).ok());
  EXPECT_THAT(WhyNot(check.Check(token, kPath, kNowMs + 60'001)), HasSubstr("behind"));
}

TEST(ClusterSecretTest, WhatIsForgottenForWantOfRoomIsNotGoodAgain) {
  const auto secret = SecretOf("0123456789abcdef");
  TokenCheck check(secret);
  const std::string first = secret->Sign(PeerRole::kNode, kPath, kNowMs, "first");
  EXPECT_TRUE(check.Check(first, kPath, kNowMs).ok());
  for (size_t i = 0; i < TokenCheck::kMaxSeen; ++i) {
    ASSERT_TRUE(
        check.Check(secret->Sign(PeerRole::kNode, kPath, kNowMs + 1, fmt::format("{}", i)), kPath, kNowMs).ok());
  }
  EXPECT_THAT(WhyNot(check.Check(first, kPath, kNowMs)), HasSubstr("used before"));
}

TEST(ClusterSecretTest, TokensOfTheClockAndOfChanceAreGood) {
  const auto secret = SecretOf("0123456789abcdef");
  EXPECT_NE(secret->Sign(PeerRole::kNode, kPath), secret->Sign(PeerRole::kNode, kPath));
}

class ClusterSecretFileTest : public ::testing::Test {
 protected:
  std::string Write(const std::string& text, mode_t mode) {
    const std::string path = dir_ / "secret";
    std::ofstream(path) << text;
    chmod(path.c_str(), mode);
    return path;
  }
  std::string WhyNotLoaded(const std::string& path) {
    const auto secret = ClusterSecret::Load(path);
    EXPECT_EQ(secret.status().code(), absl::StatusCode::kInvalidArgument);
    EXPECT_THAT(std::string(secret.status().message()), HasSubstr("--cluster-secret-file '" + path));
    return std::string(secret.status().message());
  }
  TempDir dir_;
};

TEST_F(ClusterSecretFileTest, TheLineEndIsNoPartOfIt) {
  const auto secret = ClusterSecret::Load(Write("0123456789abcdef\n", 0600));
  ASSERT_TRUE(secret.ok()) << secret.status();
  EXPECT_EQ((*secret)->Sign(PeerRole::kNode, kPath, 1, "a"),
            SecretOf("0123456789abcdef")->Sign(PeerRole::kNode, kPath, 1, "a"));
}

TEST_F(ClusterSecretFileTest, FilesThatAreNotFit) {
  EXPECT_THAT(WhyNotLoaded(dir_ / "none"), HasSubstr("No such file"));
  EXPECT_THAT(WhyNotLoaded(dir_.path()), HasSubstr("no regular file"));
  EXPECT_THAT(WhyNotLoaded(Write("", 0600)), HasSubstr("is empty"));
  EXPECT_THAT(WhyNotLoaded(Write("0123456789abcde\n\n", 0600)), HasSubstr("holds 15 bytes; a secret has 16"));
  EXPECT_THAT(WhyNotLoaded(Write(std::string(5000, 'x'), 0600)), HasSubstr("at most 4096"));
  EXPECT_THAT(WhyNotLoaded(Write("0123456789abcdef", 0644)), HasSubstr("mode 644 lets others read"));
  EXPECT_THAT(WhyNotLoaded(Write("0123456789abcdef", 0620)), HasSubstr("mode 620"));
  const std::string fifo = dir_ / "fifo";
  ASSERT_EQ(mkfifo(fifo.c_str(), 0600), 0);
  EXPECT_THAT(WhyNotLoaded(fifo), HasSubstr("no regular file"));  // and does not wait for a writer
  EXPECT_TRUE(ClusterSecret::Load(Write("0123456789abcdef", 0440)).ok());
}

}  // namespace
}  // namespace tributary

#include "rpc/security/tls_identity.h"

#include <sys/stat.h>

#include <ctime>
#include <string>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "tests/unit/rpc/security/tls_files.h"

namespace tributary {
namespace {

using ::testing::HasSubstr;
using testing::TestTlsFiles;

class TlsIdentityTest : public ::testing::Test {
 protected:
  static std::string WhyNot(const TlsFiles& files, PeerRole self = PeerRole::kNode) {
    const auto identity = CheckTlsFiles(files, self, time(nullptr));
    EXPECT_EQ(identity.status().code(), absl::StatusCode::kInvalidArgument);
    return std::string(identity.status().message());
  }

  const TestCertificate ca_{"ca"};
  const TestCertificate other_ca_{"other-ca"};
  const TestTlsFiles node_{ca_, PeerRole::kNode};
};

TEST_F(TlsIdentityTest, GoodFiles) {
  const auto identity = CheckTlsFiles(node_.files(), PeerRole::kNode, time(nullptr));
  ASSERT_TRUE(identity.ok()) << identity.status();
  EXPECT_EQ(identity->subject, "CN = peer-1");
  EXPECT_EQ(ToString(identity->roles), "node");
  EXPECT_NEAR(static_cast<double>(identity->not_after_unix_s), static_cast<double>(time(nullptr) + 3600), 300);
  EXPECT_EQ(ExpiryOf(node_.files().cert), identity->not_after_unix_s);
  EXPECT_EQ(ExpiryOf("/nonexistent"), std::nullopt);
}

TEST_F(TlsIdentityTest, FilesThatAreMissingOrNoneOfTheirKind) {
  TlsFiles files = node_.files();
  files.ca = "";
  EXPECT_THAT(WhyNot(files), HasSubstr("--tls-ca is missing"));
  files = node_.files();
  files.cert = "/nonexistent.crt";
  EXPECT_THAT(WhyNot(files), HasSubstr("--tls-cert '/nonexistent.crt': No such file"));
  files = node_.files();
  files.cert = files.key;
  EXPECT_THAT(WhyNot(files), HasSubstr("has no certificate in PEM form"));
  files = node_.files();
  files.key = files.ca;
  chmod(files.ca.c_str(), 0600);
  EXPECT_THAT(WhyNot(files), HasSubstr("has no private key in PEM form"));
}

TEST_F(TlsIdentityTest, OthersMayNotReadTheKey) {
  chmod(node_.files().key.c_str(), 0644);
  EXPECT_THAT(WhyNot(node_.files()), HasSubstr("mode 644 lets others read or change it; use chmod 600"));
  chmod(node_.files().key.c_str(), 0640);
  EXPECT_TRUE(CheckTlsFiles(node_.files(), PeerRole::kNode, time(nullptr)).ok());
}

TEST_F(TlsIdentityTest, TheKeyOfAnotherCertificate) {
  const TestTlsFiles other(ca_, PeerRole::kNode);
  TlsFiles files = node_.files();
  files.key = other.files().key;
  EXPECT_THAT(WhyNot(files), HasSubstr("is not the key of --tls-cert '" + files.cert));
}

TEST_F(TlsIdentityTest, NotYetOrNoLongerValid) {
  TestCertificateOptions options = TestTlsFiles::OptionsOf(PeerRole::kNode);
  options.ends_s = -60;
  EXPECT_THAT(WhyNot(TestTlsFiles(ca_, options).files()), HasSubstr("has expired on "));
  options.begins_s = 1800;
  options.ends_s = 3600;
  EXPECT_THAT(WhyNot(TestTlsFiles(ca_, options).files()), HasSubstr("is not valid before "));
}

TEST_F(TlsIdentityTest, TheCaDoesNotVouchForIt) {
  other_ca_.WriteCertificate(node_.files().ca);
  EXPECT_THAT(WhyNot(node_.files()), HasSubstr("--tls-ca '" + node_.files().ca + "' does not vouch for it: "));
}

TEST_F(TlsIdentityTest, ItHasAnotherRoleOrNone) {
  EXPECT_THAT(WhyNot(node_.files(), PeerRole::kCoordinator),
              HasSubstr("gives node, and this process is a coordinator: its subjectAltName needs "
                        "DNS:coordinator.tributary.internal"));
  EXPECT_THAT(WhyNot(TestTlsFiles(ca_, TestCertificateOptions{}).files()), HasSubstr("gives no role"));
}

TEST_F(TlsIdentityTest, WhatItMayBeUsedFor) {
  TestCertificateOptions options;
  options.alt_names = "DNS:node.tributary.internal,DNS:client.tributary.internal";
  options.extended_use = "clientAuth";
  const TestTlsFiles client_only(ca_, options);
  EXPECT_TRUE(CheckTlsFiles(client_only.files(), PeerRole::kClient, time(nullptr)).ok());
  EXPECT_THAT(WhyNot(client_only.files()), HasSubstr("a node does: it needs clientAuth and serverAuth"));
}

}  // namespace
}  // namespace tributary

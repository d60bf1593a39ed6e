// The files of one process with TLS, in a folder of their own.
#pragma once

#include <string>

#include "rpc/security/peer_role.h"
#include "rpc/security/security_options.h"
#include "tests/testutil/temp_dir.h"
#include "tests/testutil/test_certificates.h"

namespace tributary::testing {

class TestTlsFiles {
 public:
  explicit TestTlsFiles(const TestCertificate& ca, PeerRole role) : TestTlsFiles(ca, OptionsOf(role)) {}
  TestTlsFiles(const TestCertificate& ca, const TestCertificateOptions& options) {
    ca.WriteCertificate(files_.ca);
    Renew(ca, options);
  }

  // Another certificate in place of the one that is there.
  void Renew(const TestCertificate& ca, const TestCertificateOptions& options) {
    const TestCertificate own("peer-1", options, &ca);
    own.WriteCertificate(files_.cert);
    own.WriteKey(files_.key);
  }

  static TestCertificateOptions OptionsOf(PeerRole role) {
    TestCertificateOptions options;
    options.alt_names = "DNS:" + CertificateName(role);
    return options;
  }
  const TlsFiles& files() const { return files_; }
  SecurityOptions options() const {
    SecurityOptions options;
    options.tls = files_;
    return options;
  }

 private:
  TempDir dir_;
  const TlsFiles files_ = {dir_ / "own.crt", dir_ / "own.key", dir_ / "ca.crt"};
};

}  // namespace tributary::testing

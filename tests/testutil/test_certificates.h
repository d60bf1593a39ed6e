// Certificates for tests, made in the process: a CA, and what it vouches for.
#pragma once

#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509v3.h>
#include <sys/stat.h>

#include <cstdint>
#include <cstdio>
#include <memory>
#include <string>

#include "base/check.h"

namespace tributary {

struct TestCertificateOptions {
  std::string alt_names;     // e.g. "DNS:node.tributary.internal"
  std::string extended_use;  // e.g. "clientAuth"; "": everything
  int64_t begins_s = -3600;  // from now
  int64_t ends_s = 3600;
};

class TestCertificate {
 public:
  // Signed by `ca`, or by itself.
  explicit TestCertificate(const std::string& name, const TestCertificateOptions& options = {},
                           const TestCertificate* ca = nullptr)
      : key_(EVP_EC_gen("P-256"), &EVP_PKEY_free), certificate_(X509_new(), &X509_free) {
    static int serial = 0;
    X509_set_version(certificate_.get(), X509_VERSION_3);
    ASN1_INTEGER_set(X509_get_serialNumber(certificate_.get()), ++serial);
    X509_gmtime_adj(X509_getm_notBefore(certificate_.get()), options.begins_s);
    X509_gmtime_adj(X509_getm_notAfter(certificate_.get()), options.ends_s);
    X509_set_pubkey(certificate_.get(), key_.get());
    X509_NAME_add_entry_by_txt(X509_get_subject_name(certificate_.get()), "CN", MBSTRING_ASC,
                               reinterpret_cast<const unsigned char*>(name.c_str()), -1, -1, 0);
    const TestCertificate& signer = ca == nullptr ? *this : *ca;
    X509_set_issuer_name(certificate_.get(), X509_get_subject_name(signer.certificate_.get()));
    Extend(NID_basic_constraints, ca == nullptr ? "critical,CA:TRUE" : "critical,CA:FALSE");
    if (!options.alt_names.empty()) Extend(NID_subject_alt_name, options.alt_names);
    if (!options.extended_use.empty()) Extend(NID_ext_key_usage, options.extended_use);
    TRIBUTARY_CHECK(X509_sign(certificate_.get(), signer.key_.get(), EVP_sha256()) > 0);
  }

  // PEM files, the key's with mode 0600.
  void WriteCertificate(const std::string& path) const {
    Write(path, [&](FILE* file) { return PEM_write_X509(file, certificate_.get()); });
  }
  void WriteKey(const std::string& path) const {
    Write(path,
          [&](FILE* file) { return PEM_write_PrivateKey(file, key_.get(), nullptr, nullptr, 0, nullptr, nullptr); });
    chmod(path.c_str(), 0600);
  }

 private:
  void Extend(int nid, const std::string& value) {
    X509_EXTENSION* const extension = X509V3_EXT_conf_nid(nullptr, nullptr, nid, value.c_str());
    TRIBUTARY_CHECK(extension != nullptr);
    X509_add_ext(certificate_.get(), extension, -1);
    X509_EXTENSION_free(extension);
  }
  template <typename Writer>
  static void Write(const std::string& path, Writer writer) {
    FILE* const file = std::fopen(path.c_str(), "w");
    TRIBUTARY_CHECK(file != nullptr);
    TRIBUTARY_CHECK(writer(file) == 1);
    TRIBUTARY_CHECK(std::fclose(file) == 0);
  }

  const std::unique_ptr<EVP_PKEY, void (*)(EVP_PKEY*)> key_;
  const std::unique_ptr<X509, void (*)(X509*)> certificate_;
};

}  // namespace tributary

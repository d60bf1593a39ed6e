#include "rpc/security/tls_identity.h"

#include <openssl/err.h>
#include <openssl/pem.h>
#include <openssl/x509.h>
#include <openssl/x509_vfy.h>
#include <openssl/x509v3.h>

#include <ctime>
#include <memory>
#include <string_view>
#include <vector>

#include "base/outside_text.h"
#include "base/status.h"
#include "fmt/format.h"
#include "rpc/security/secret_file.h"

namespace tributary {
namespace {

constexpr size_t kMaxFileBytes = 1 << 20;

template <auto Free>
struct Freer {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
using Bio = std::unique_ptr<BIO, Freer<BIO_free>>;
using Certificate = std::unique_ptr<X509, Freer<X509_free>>;
using Key = std::unique_ptr<EVP_PKEY, Freer<EVP_PKEY_free>>;
using Store = std::unique_ptr<X509_STORE, Freer<X509_STORE_free>>;
using StoreContext = std::unique_ptr<X509_STORE_CTX, Freer<X509_STORE_CTX_free>>;
using Names = std::unique_ptr<GENERAL_NAMES, Freer<GENERAL_NAMES_free>>;

Bio BioOf(const std::string& text) { return Bio(BIO_new_mem_buf(text.data(), static_cast<int>(text.size()))); }

absl::Status Wrong(const char* flag, const std::string& path, const std::string& why) {
  return absl::InvalidArgumentError(fmt::format("{} '{}': {}", flag, Printable(path), why));
}

absl::StatusOr<std::vector<Certificate>> ReadCertificates(const char* flag, const std::string& path) {
  TRIBUTARY_ASSIGN_OR_RETURN(const std::string text, ReadSecurityFile(flag, path, /*is_secret=*/false, kMaxFileBytes));
  const Bio bio = BioOf(text);
  std::vector<Certificate> certificates;
  while (X509* const certificate = PEM_read_bio_X509(bio.get(), nullptr, nullptr, nullptr)) {
    certificates.emplace_back(certificate);
  }
  ERR_clear_error();
  if (certificates.empty()) return Wrong(flag, path, "has no certificate in PEM form");
  return certificates;
}

// Asks for no passphrase: a process that starts by itself has nobody to ask.
int NoPassphrase(char*, int, int, void*) { return 0; }

absl::StatusOr<Key> ReadKey(const std::string& path) {
  TRIBUTARY_ASSIGN_OR_RETURN(const std::string text,
                             ReadSecurityFile("--tls-key", path, /*is_secret=*/true, kMaxFileBytes));
  Key key(PEM_read_bio_PrivateKey(BioOf(text).get(), nullptr, &NoPassphrase, nullptr));
  ERR_clear_error();
  if (key == nullptr) return Wrong("--tls-key", path, "has no private key in PEM form without a passphrase");
  return key;
}

std::string SubjectOf(X509& certificate) {
  const Bio bio(BIO_new(BIO_s_mem()));
  X509_NAME_print_ex(bio.get(), X509_get_subject_name(&certificate), 0, XN_FLAG_ONELINE & ~ASN1_STRFLGS_ESC_MSB);
  char* text = nullptr;
  const long size = BIO_get_mem_data(bio.get(), &text);
  return Printable(std::string(text, static_cast<size_t>(size)));
}

PeerRoles RolesOf(X509& certificate) {
  PeerRoles roles;
  const Names names(
      static_cast<GENERAL_NAMES*>(X509_get_ext_d2i(&certificate, NID_subject_alt_name, nullptr, nullptr)));
  for (int i = 0; names != nullptr && i < sk_GENERAL_NAME_num(names.get()); ++i) {
    const GENERAL_NAME* const name = sk_GENERAL_NAME_value(names.get(), i);
    if (name->type != GEN_DNS) continue;
    const std::string_view text(reinterpret_cast<const char*>(ASN1_STRING_get0_data(name->d.dNSName)),
                                static_cast<size_t>(ASN1_STRING_length(name->d.dNSName)));
    if (const auto role = PeerRoleFromCertificateName(text); role.has_value()) roles.Add(*role);
  }
  return roles;
}

std::string TimeText(int64_t unix_s) {
  const time_t seconds = unix_s;
  tm utc{};
  gmtime_r(&seconds, &utc);
  char text[32];
  return std::string(text, strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S UTC", &utc));
}

int64_t UnixSeconds(const ASN1_TIME* time) {
  tm utc{};
  return ASN1_TIME_to_tm(time, &utc) == 1 ? timegm(&utc) : 0;
}

// OK, or why none of the CA's certificates vouches for the process's, at `now_unix_s`.
absl::Status CheckChain(const TlsFiles& files, const std::vector<Certificate>& own, const std::vector<Certificate>& ca,
                        int64_t now_unix_s) {
  const Store store(X509_STORE_new());
  for (const Certificate& certificate : ca) X509_STORE_add_cert(store.get(), certificate.get());
  STACK_OF(X509)* const between = sk_X509_new_null();
  for (size_t i = 1; i < own.size(); ++i) sk_X509_push(between, own[i].get());
  const StoreContext context(X509_STORE_CTX_new());
  X509_STORE_CTX_init(context.get(), store.get(), own.front().get(), between);
  X509_STORE_CTX_set_time(context.get(), 0, now_unix_s);
  const bool is_good = X509_verify_cert(context.get()) == 1;
  const std::string why = X509_verify_cert_error_string(X509_STORE_CTX_get_error(context.get()));
  sk_X509_free(between);
  ERR_clear_error();
  if (is_good) return absl::OkStatus();
  return Wrong("--tls-cert", files.cert, fmt::format("--tls-ca '{}' does not vouch for it: {}", files.ca, why));
}

absl::Status CheckUse(const TlsFiles& files, X509& certificate, PeerRole self, const TlsIdentity& identity) {
  if (!identity.roles.Has(self)) {
    return Wrong("--tls-cert", files.cert,
                 fmt::format("of '{}' gives {}, and this process is a {}: its subjectAltName needs DNS:{}",
                             identity.subject, ToString(identity.roles), PeerRoleName(self), CertificateName(self)));
  }
  const bool serves = self != PeerRole::kClient;
  if (X509_check_purpose(&certificate, X509_PURPOSE_SSL_CLIENT, 0) == 1 &&
      (!serves || X509_check_purpose(&certificate, X509_PURPOSE_SSL_SERVER, 0) == 1)) {
    return absl::OkStatus();
  }
  return Wrong("--tls-cert", files.cert,
               fmt::format("its extendedKeyUsage does not allow what a {} does: it needs {}, or no such extension",
                           PeerRoleName(self), serves ? "clientAuth and serverAuth" : "clientAuth"));
}

}  // namespace

absl::StatusOr<TlsIdentity> CheckTlsFiles(const TlsFiles& files, PeerRole self, int64_t now_unix_s) {
  for (const auto& [flag, path] :
       {std::pair{"--tls-cert", &files.cert}, std::pair{"--tls-key", &files.key}, std::pair{"--tls-ca", &files.ca}}) {
    if (path->empty()) {
      return absl::InvalidArgumentError(
          fmt::format("{} is missing: --tls-cert, --tls-key and --tls-ca are given together", flag));
    }
  }
  TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<Certificate> own, ReadCertificates("--tls-cert", files.cert));
  TRIBUTARY_ASSIGN_OR_RETURN(const std::vector<Certificate> ca, ReadCertificates("--tls-ca", files.ca));
  TRIBUTARY_ASSIGN_OR_RETURN(const Key key, ReadKey(files.key));
  X509& certificate = *own.front();
  if (X509_check_private_key(&certificate, key.get()) != 1) {
    ERR_clear_error();
    return Wrong("--tls-key", files.key, fmt::format("is not the key of --tls-cert '{}'", Printable(files.cert)));
  }
  TlsIdentity identity;
  identity.subject = SubjectOf(certificate);
  identity.roles = RolesOf(certificate);
  identity.not_after_unix_s = UnixSeconds(X509_get0_notAfter(&certificate));
  const int64_t not_before_unix_s = UnixSeconds(X509_get0_notBefore(&certificate));
  if (now_unix_s > identity.not_after_unix_s) {
    return Wrong("--tls-cert", files.cert, fmt::format("has expired on {}", TimeText(identity.not_after_unix_s)));
  }
  if (now_unix_s < not_before_unix_s) {
    return Wrong("--tls-cert", files.cert, fmt::format("is not valid before {}", TimeText(not_before_unix_s)));
  }
  TRIBUTARY_RETURN_IF_ERROR(CheckChain(files, own, ca, now_unix_s));
  TRIBUTARY_RETURN_IF_ERROR(CheckUse(files, certificate, self, identity));
  return identity;
}

std::optional<int64_t> ExpiryOf(const std::string& certificate_path) {
  const auto certificates = ReadCertificates("--tls-cert", certificate_path);
  if (!certificates.ok()) return std::nullopt;
  return UnixSeconds(X509_get0_notAfter(certificates->front().get()));
}

}  // namespace tributary

// By what a process proves who it is, and asks others to: as its flags say it (process/flags/security_flags.h).
#pragma once

#include <string>

namespace tributary {

// Paths of PEM files. All three or none.
struct TlsFiles {
  std::string cert;  // the process's own certificate, and what leads from it to one of `ca`
  std::string key;   // its private key
  std::string ca;    // the certificates that vouch for peers

  bool empty() const { return cert.empty() && key.empty() && ca.empty(); }
};

struct SecurityOptions {
  TlsFiles tls;
  std::string cluster_secret_file;  // "": none
  bool insecure = false;            // a server may listen to the network although it asks nobody who he is
};

}  // namespace tributary

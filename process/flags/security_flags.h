// The flags by which a process proves who it is, in the same words for all.
#pragma once

#include <string>

#include "rpc/security/security_options.h"

namespace CLI {
class App;
}

namespace tributary {

// --tls-cert, --tls-key, --tls-ca. `group`: of the help; "" = no group of their own.
void AddTlsFlags(CLI::App& app, TlsFiles* files, const std::string& group = "");
// The same, and --cluster-secret-file and --insecure: of a server.
void AddSecurityFlags(CLI::App& app, SecurityOptions* options);

}  // namespace tributary

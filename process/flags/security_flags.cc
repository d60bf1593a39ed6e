#include "process/flags/security_flags.h"

#include <utility>

#include "CLI/CLI.hpp"

namespace tributary {

void AddTlsFlags(CLI::App& app, TlsFiles* files, const std::string& group) {
  const auto add = [&](const char* name, std::string& path, const char* help) {
    CLI::Option* const option = app.add_option(name, path, help);
    if (!group.empty()) option->group(group);
  };
  add("--tls-cert", files->cert, "PEM file of this process's certificate, which names its role; gRPC then speaks TLS");
  add("--tls-key", files->key, "PEM file of its private key, which nobody else may read");
  add("--tls-ca", files->ca, "PEM file of the certificates that vouch for peers");
}

void AddSecurityFlags(CLI::App& app, SecurityOptions* options) {
  AddTlsFlags(app, &options->tls);
  app.add_option("--cluster-secret-file", options->cluster_secret_file,
                 "File with the secret that all members of the cluster share, for where there is no TLS");
  app.add_flag("--insecure", options->insecure,
               "Listens to other hosts although gRPC asks nobody who he is (no TLS, no secret)");
}

}  // namespace tributary

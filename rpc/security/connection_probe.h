// Finds out why no channel comes about: gRPC says "Socket closed" to a client whose certificate a server refuses, and
// nothing at all while it waits.
#pragma once

#include <string>

#include "rpc/rpc_options.h"

namespace tributary {

// Makes a connection of its own to "host:port" and shakes hands, in at most a few seconds. What TLS has to do with its
// failing, in words for an operator: "the server refuses --tls-cert 'a.crt': ...". "" if it fails before that, or does
// not fail.
std::string WhyNoTlsConnection(const std::string& address, const RpcCredentials& credentials);

}  // namespace tributary

"""By what a client proves who it is to a coordinator that speaks TLS, and checks that it is one."""

from __future__ import annotations

import os
from dataclasses import dataclass

import grpc

# The name in a coordinator's certificate that says it is one: rpc/security/peer_role.h of the C++ side.
COORDINATOR_NAME = "coordinator.tributary.internal"


@dataclass(frozen=True)
class Tls:
    """Paths of PEM files. They are read when a client is made: another client sees what has changed."""

    cert: str | os.PathLike[str]  # of this client, with the DNS name client.tributary.internal
    key: str | os.PathLike[str]  # its private key
    ca: str | os.PathLike[str]  # the certificates that vouch for the coordinator

    def credentials(self) -> grpc.ChannelCredentials:
        """ValueError, with the path, if a file cannot be read or is no PEM file."""
        return grpc.ssl_channel_credentials(root_certificates=_pem(self.ca, "CERTIFICATE"),
                                            private_key=_pem(self.key, "PRIVATE KEY"),
                                            certificate_chain=_pem(self.cert, "CERTIFICATE"))


def _pem(path: str | os.PathLike[str], what: str) -> bytes:
    try:
        with open(path, "rb") as file:
            text = file.read()
    except OSError as error:
        raise ValueError(f"cannot read {os.fspath(path)!r}: {error.strerror}") from None
    if what.encode() + b"-----" not in text:
        raise ValueError(f"{os.fspath(path)!r} has no {what} in PEM form")
    return text

"""What is said of files that are not right."""

from __future__ import annotations

from pathlib import Path

import pytest

from tributary import Client, Tls


def test_files_that_are_not_right(tmp_path: Path) -> None:
    certificate, key = tmp_path / "own.crt", tmp_path / "own.key"
    tls = Tls(certificate, key, certificate)
    with pytest.raises(ValueError, match=r"cannot read '.*own.crt': No such file"):
        tls.credentials()
    certificate.write_text("-----BEGIN CERTIFICATE-----\n")
    key.write_text("")
    with pytest.raises(ValueError, match=r"own.key' has no PRIVATE KEY in PEM form"):
        Client("127.0.0.1:1", tls=tls)

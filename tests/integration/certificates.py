"""Certificates for tests, made by the openssl command: a CA and files for each role, as README tells operators."""

import datetime
import pathlib
import subprocess


def openssl(*arguments):
    done = subprocess.run(["openssl", *map(str, arguments)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, f"openssl {arguments[0]}: {done.stderr}"
    return done.stdout


class Authority:
    """A CA in a folder of its own under `folder`."""

    def __init__(self, folder, name="ca"):
        self.folder = pathlib.Path(folder) / name
        self.folder.mkdir()
        self.ca = self.folder / "ca.crt"
        openssl("req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2", "-subj",
                f"/CN={name}", "-keyout", self.folder / "ca.key", "-out", self.ca)

    def files(self, name, role=None, ends=datetime.timedelta(days=1)):
        """(certificate, key) of a new pair whose certificate gives `role`, which is `name` unless said."""
        request, config = self.folder / "request", self.folder / "extensions"
        certificate, key = self.folder / f"{name}.crt", self.folder / f"{name}.key"
        openssl("req", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-subj", f"/CN={name}",
                "-keyout", key, "-out", request)
        config.write_text(f"subjectAltName=DNS:{role or name}.tributary.internal\nbasicConstraints=CA:FALSE\n")
        database = self.folder / "index.txt"
        database.write_text("")
        (self.folder / "ca.cnf").write_text(
            f"[ca]\ndefault_ca=x\n[x]\ndatabase={database}\nnew_certs_dir={self.folder}\nrand_serial=yes\n"
            "default_md=sha256\npolicy=p\nunique_subject=no\n[p]\ncommonName=supplied\n")
        now = datetime.datetime.now(datetime.timezone.utc)
        begins = min(now, now + ends) - datetime.timedelta(hours=1)
        stamp = "%Y%m%d%H%M%SZ"
        openssl("ca", "-batch", "-notext", "-config", self.folder / "ca.cnf", "-cert", self.ca, "-keyfile",
                self.folder / "ca.key", "-in", request, "-out", certificate, "-extfile", config, "-startdate",
                begins.strftime(stamp), "-enddate", (now + ends).strftime(stamp))
        key.chmod(0o600)
        return certificate, key

    def flags(self, name, role=None, **more):
        """The flags of a process with such files."""
        certificate, key = self.files(name, role, **more)
        return ["--tls-cert", certificate, "--tls-key", key, "--tls-ca", self.ca]

"""deploy/systemd: hardened units that start what there is, with flags that the package installs as configuration.

Where systemd-analyze is installed, it reads the units, too.
"""

import pathlib
import re
import shutil
import subprocess
import tempfile
import unittest

ROOT = pathlib.Path(__file__).resolve().parents[3]
FOLDER = ROOT / "deploy" / "systemd"
SERVICES = ("tributary-coordinator", "tributary-cpu-attention", "tributary-gpu-worker")
HARDENED = {
    "DynamicUser": "yes", "User": "tributary", "NoNewPrivileges": "yes", "ProtectSystem": "strict", "PrivateTmp": "yes",
    "CapabilityBoundingSet": "", "Restart": "on-failure", "LimitNOFILE": "65536", "SystemCallFilter": "@system-service",
}


def settings(path):
    """{name: value} of all sections."""
    pairs = re.findall(r"^(\w+)=(.*)$", path.read_text(), re.MULTILINE)
    names = [name for name, _ in pairs]
    assert len(names) == len(set(names)), f"{path} says something twice"
    return dict(pairs)


class UnitsTest(unittest.TestCase):
    def test_each_service_has_its_unit_and_its_flags(self):
        self.assertEqual(sorted(path.stem for path in FOLDER.glob("*.service")), sorted(SERVICES))
        conffiles = (ROOT / "deploy" / "debian" / "conffiles").read_text().split()
        self.assertEqual(conffiles, [f"/etc/default/{name}" for name in SERVICES])
        for name in SERVICES:
            unit = settings(FOLDER / f"{name}.service")
            self.assertEqual(unit["ExecStart"],
                             f"/usr/bin/{name} --cluster-secret-file %d/cluster-secret $TRIBUTARY_FLAGS")
            self.assertEqual(unit["LoadCredential"], "cluster-secret:/etc/tributary/cluster.secret")
            self.assertEqual(unit["EnvironmentFile"], f"/etc/default/{name}")
            self.assertRegex((FOLDER / "default" / name).read_text(), r'(?m)^TRIBUTARY_FLAGS="--listen [^"]+"$')

    def test_hardened(self):
        for name in SERVICES:
            unit = settings(FOLDER / f"{name}.service")
            for setting, value in HARDENED.items():
                self.assertEqual(unit.get(setting), value, f"{name}: {setting}")
        for name in SERVICES[1:]:  # which have a data plane
            unit = settings(FOLDER / f"{name}.service")
            self.assertEqual(unit["LimitMEMLOCK"], "infinity")
            # UCX patches code when it starts, and shares memory and devices.
            for setting in ("MemoryDenyWriteExecute", "PrivateDevices", "PrivateIPC", "PrivateNetwork"):
                self.assertNotIn(setting, unit, name)

    def test_the_package_makes_a_secret_once(self):
        script = (ROOT / "deploy" / "debian" / "postinst").read_text()
        with tempfile.TemporaryDirectory() as name:
            text = script.replace("/etc/tributary", f"{name}/tributary").replace("/run/systemd/system", name)
            text = text.replace("systemctl daemon-reload", "true")
            secrets = []
            for _ in range(2):
                subprocess.run(["sh", "-c", text], check=True)
                path = pathlib.Path(name) / "tributary" / "cluster.secret"
                secrets.append(path.read_text())
                self.assertEqual(path.stat().st_mode & 0o777, 0o600)
            self.assertEqual(secrets[0], secrets[1])
            self.assertRegex(secrets[0], r"^[0-9a-f]{64}\n$")

    def test_longer_than_a_drain(self):
        for name in SERVICES:
            self.assertGreater(int(settings(FOLDER / f"{name}.service")["TimeoutStopSec"]), 60)

    @unittest.skipUnless(shutil.which("systemd-analyze"), "systemd-analyze is not installed")
    def test_systemd_reads_them(self):
        with tempfile.TemporaryDirectory() as name:
            program = shutil.which("true")  # the real ones need not be installed
            paths = []
            for service in SERVICES:
                paths.append(pathlib.Path(name) / f"{service}.service")
                text = (FOLDER / paths[-1].name).read_text()
                paths[-1].write_text(text.replace(f"ExecStart=/usr/bin/{service}", f"ExecStart={program}"))
            done = subprocess.run(["systemd-analyze", "verify", "--man=no", *paths], capture_output=True, text=True,
                                  check=False)
            ours = [line for line in done.stderr.splitlines() if "tributary-" in line]
            # What it says of this host's own units, and its exit status with it, is not ours.
            self.assertEqual(ours, [], done.stderr)


if __name__ == "__main__":
    unittest.main()

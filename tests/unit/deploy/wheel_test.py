"""wheel/: the wheel of everything needs what the Python package and its server need, and compiles what is installed."""

import pathlib
import re
import unittest

try:
    import tomllib
except ImportError:  # Python 3.10
    tomllib = None

ROOT = pathlib.Path(__file__).resolve().parents[3]


@unittest.skipUnless(tomllib, "this Python has no tomllib")
class WheelTest(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.wheel = tomllib.loads((ROOT / "wheel" / "pyproject.toml").read_text())
        cls.package = tomllib.loads((ROOT / "python" / "pyproject.toml").read_text())

    def test_needs_what_the_package_and_its_server_need(self):
        package = self.package["project"]
        self.assertEqual(self.wheel["project"]["dependencies"],
                         package["dependencies"] + package["optional-dependencies"]["serve"])
        for name in ("name", "version", "requires-python", "license", "scripts"):
            self.assertEqual(self.wheel["project"][name], package[name], name)

    def test_stubs_are_made_by_the_same_tool(self):
        tools = [[need for need in project["build-system"]["requires"] if need.startswith("grpcio-tools")]
                 for project in (self.wheel, self.package)]
        self.assertEqual(tools[0], tools[1])

    def test_compiles_the_programs_that_are_installed(self):
        programs, = re.findall(r"foreach\(program ([^)]*)\)", (ROOT / "cmake" / "install.cmake").read_text())
        self.assertEqual(self.wheel["tool"]["scikit-build"]["build"]["targets"],
                         [*programs.split(), "tributary_documents"])


if __name__ == "__main__":
    unittest.main()

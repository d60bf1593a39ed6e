"""Makes the gRPC stubs as part of the build; everything else is in pyproject.toml."""

import sys
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE))

from stubs import make_stubs  # noqa: E402


class BuildWithStubs(build_py):
    """In an editable install the stubs lie in the work tree, else in the folder that the wheel is made of."""

    def run(self) -> None:
        super().run()
        make_stubs(HERE / "src" if self.editable_mode else Path(self.build_lib))


setup(cmdclass={"build_py": BuildWithStubs})

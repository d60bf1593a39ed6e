#!/usr/bin/env python3
"""Turns text into the token ids of a model and back, for `tributary eval`, which starts this once.

Reads one JSON object per line on standard input, {"encode": TEXT, "begins": BOOL} or {"decode": [ID, ...]}, and answers
each with one on standard output: {"tokens": [...], "begins": [...]}, where `begins` are bytes of the text's UTF-8, or
{"text": TEXT}, which ends before the first special token. The first line out is a greeting: `prefix`, the tokens that
a text begins with, and `chat`, what the folder's chat template puts around the turns. {"error": TEXT} instead of
any answer says what is wrong and what to do. Needs the Python package `tokenizers`, and `jinja2` for a chat template.
"""

import argparse
import json
import pathlib
import sys

INSTALL = "install it with: {python} -m pip install -r tools/packages/python.txt (or: pip install {package})"
USER, ANSWER, AGAIN = "<user's words>", "<the answer>", "<user's next words>"


class TokenizerError(Exception):
    """Something that the user must know."""


def load_tokenizer(folder):
    path = folder / "tokenizer.json"
    if not path.is_file():
        raise TokenizerError(f"there is no {path}; give token ids with --text-tokens-file, or a folder that has one "
                             "with --tokenizer")
    try:
        import tokenizers
    except ImportError:
        raise TokenizerError(
            f"the Python package 'tokenizers' is not installed for {sys.executable}; "
            f"{INSTALL.format(python=sys.executable, package='tokenizers')}, name another Python with --python, or "
            "give token ids with --text-tokens-file, which needs no tokenizer") from None
    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(path))
    except Exception as error:  # the package's errors have no class of their own
        raise TokenizerError(f"{path} is no tokenizer: {error}") from None
    tokenizer.no_truncation()
    tokenizer.no_padding()
    return tokenizer


def token_text(token):
    """A special token of tokenizer_config.json: a string, or an object with its content."""
    return token.get("content", "") if isinstance(token, dict) else token or ""


def chat_template(folder, config):
    """The template's source; None if the folder has none."""
    path = folder / "chat_template.jinja"
    if path.is_file():
        return path.read_text(encoding="utf-8")
    template = config.get("chat_template")
    if isinstance(template, list):  # several, by name
        named = {entry["name"]: entry["template"] for entry in template}
        template = named.get("default", template[0]["template"] if template else None)
    return template


def chat_frame(folder):
    """What the template puts before, between and behind the words of a user, an answer, and the user again."""
    path = folder / "tokenizer_config.json"
    config = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
    source = chat_template(folder, config)
    if not source:
        return None
    try:
        import jinja2
        import jinja2.sandbox
    except ImportError:
        raise TokenizerError(
            f"the chat template of {folder} needs the Python package 'jinja2', which is not installed for "
            f"{sys.executable}; {INSTALL.format(python=sys.executable, package='jinja2')}, or ask without the "
            "template: --chat-template none") from None

    def refuse(message):
        raise jinja2.TemplateError(message)

    environment = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True,
                                                               extensions=["jinja2.ext.loopcontrols"])
    environment.globals["raise_exception"] = refuse
    environment.globals["strftime_now"] = lambda _: "01 January 2026"  # the same prompt every day
    messages = [{"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER},
                {"role": "user", "content": AGAIN}]
    try:
        text = environment.from_string(source).render(
            messages=messages, add_generation_prompt=True, bos_token=token_text(config.get("bos_token")),
            eos_token=token_text(config.get("eos_token")))
    except jinja2.TemplateError as error:
        raise TokenizerError(f"the chat template of {folder} fails: {error}; ask without it: --chat-template none") \
            from None
    if not text.find(USER) < text.find(ANSWER) < text.find(AGAIN) or text.count(USER) != 1:
        raise TokenizerError(f"the chat template of {folder} leaves out what was said before; ask without it: "
                             "--chat-template none")
    before, rest = text.split(USER)
    answer, rest = rest.split(ANSWER)
    return {"before": before, "answer": answer, "next": rest.split(AGAIN)[0]}


class Codec:
    def __init__(self, folder, use_chat):
        self.tokenizer = load_tokenizer(folder)
        self.special = {token for token, added in self.tokenizer.get_added_tokens_decoder().items() if added.special}
        self.chat = chat_frame(folder) if use_chat else None

    def greeting(self):
        return {"prefix": self.tokenizer.encode("", add_special_tokens=True).ids, "chat": self.chat}

    def encode(self, text, with_begins):
        encoding = self.tokenizer.encode(text, add_special_tokens=False)
        if not with_begins:
            return {"tokens": encoding.ids}
        byte_of = [0]
        for character in text:
            byte_of.append(byte_of[-1] + len(character.encode("utf-8")))
        return {"tokens": encoding.ids, "begins": [byte_of[begin] for begin, _ in encoding.offsets]}

    def decode(self, tokens):
        end = next((i for i, token in enumerate(tokens) if token in self.special), len(tokens))
        return {"text": self.tokenizer.decode(tokens[:end], skip_special_tokens=False)}

    def answer(self, request):
        if "encode" in request:
            return self.encode(request["encode"], request.get("begins", False))
        return self.decode(request["decode"])


def say(answer):
    sys.stdout.write(json.dumps(answer) + "\n")
    sys.stdout.flush()


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=pathlib.Path, help="of the model: tokenizer.json, tokenizer_config.json")
    parser.add_argument("--chat-template", choices=("auto", "none"), default="auto")
    arguments = parser.parse_args()
    try:
        codec = Codec(arguments.folder, arguments.chat_template == "auto")
        say(codec.greeting())
        for line in sys.stdin:
            say(codec.answer(json.loads(line)))
    except TokenizerError as error:
        say({"error": str(error)})
    except (ValueError, KeyError, TypeError) as error:
        say({"error": f"the tokenizer of {arguments.folder} failed: {error!r}"})


if __name__ == "__main__":
    main()

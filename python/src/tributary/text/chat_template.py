"""Chat templates: from messages to the prompt that a model was trained on. Jinja in a sandbox, as in Transformers."""

from __future__ import annotations

import datetime
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jinja2
import jinja2.ext
import jinja2.sandbox

from tributary.text.files import ModelFolderError, read_object_if_there, read_text
from tributary.text.tokenizer import SpecialTokens, special_tokens

Message = Mapping[str, str]


class ChatError(Exception):
    """The messages do not suit the template; the message is the template's own where it has one."""


class _Refusal(jinja2.TemplateError):
    """What a template raises by raise_exception()."""


class _Generation(jinja2.ext.Extension):
    """{% generation %}: marks what training counts as the model's own words. Here its body, and nothing else."""

    tags = {"generation"}

    def parse(self, parser: Any) -> Any:
        next(parser.stream)
        return parser.parse_statements(["name:endgeneration"], drop_needle=True)


def _raise_exception(message: str) -> None:
    raise _Refusal(message)


def _strftime_now(form: str) -> str:
    return datetime.datetime.now().strftime(form)


def _to_json(value: Any, ensure_ascii: bool = False, indent: int | None = None, separators: Any = None,
             sort_keys: bool = False) -> str:
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


class ChatTemplate:
    """Safe from any thread."""

    def __init__(self, source: str, names: SpecialTokens, *, where: str = "the chat template") -> None:
        """`names` of special tokens, which templates use as variables; `where` the source is from, for errors."""
        environment = jinja2.sandbox.ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=[jinja2.ext.loopcontrols, _Generation])
        environment.filters["tojson"] = _to_json
        environment.globals.update(raise_exception=_raise_exception, strftime_now=_strftime_now)
        try:
            self._template = environment.from_string(source)
        except jinja2.TemplateSyntaxError as error:
            raise ModelFolderError(f"{where} is no Jinja template: line {error.lineno}: {error.message}") from None
        self._names = names
        self._where = where

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True,
               variables: Mapping[str, Any] | None = None) -> str:
        """The prompt. `variables` are further ones that the template knows (enable_thinking, ...). ChatError if the
        template refuses the messages or stumbles over them."""
        try:
            return self._template.render(**{**self._names, "tools": None, "documents": None, **(variables or {}),
                                            "messages": [dict(message) for message in messages],
                                            "add_generation_prompt": add_generation_prompt})
        except _Refusal as error:
            raise ChatError(f"the model's chat template refuses these messages: {error.message}") from None
        except Exception as error:  # noqa: BLE001 - a template may raise anything
            raise ChatError(f"{self._where} cannot be filled with these messages: "
                            f"{type(error).__name__}: {error}") from None


def load_chat_template(folder: str | Path, override: str | Path | None = None) -> ChatTemplate | None:
    """`override`, a file, or the folder's chat_template.jinja, chat_template.json or tokenizer_config.json, in this
    order; None if there is none. Of several named templates the one named "default"."""
    folder = Path(folder)
    names = special_tokens(folder)
    for path in [Path(override)] if override else [folder / "chat_template.jinja"]:
        if override or path.exists():
            return ChatTemplate(read_text(path), names, where=str(path))
    for name in ("chat_template.json", "tokenizer_config.json"):
        source = read_object_if_there(folder / name).get("chat_template")
        if isinstance(source, list):
            source = next((entry.get("template") for entry in source
                           if isinstance(entry, dict) and entry.get("name") == "default"), None)
        if isinstance(source, str):
            return ChatTemplate(source, names, where=f"the chat template in {folder / name}")
        if source is not None:
            raise ModelFolderError(f"{folder / name}: chat_template is a {type(source).__name__}, not a text")
    return None

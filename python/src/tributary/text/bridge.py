"""Text for `tributary`, the command line: one child process, which tools/tokenizer.py starts with this.

It reads one JSON object per line and answers each with one:
  {"encode": TEXT, "special": BOOL}   {"tokens": [...]}; special: with the tokens that the model wants around a text
  {"encode": TEXT, "begins": true}    {"tokens": [...], "begins": [...]}: bytes of the text's UTF-8 where they begin
  {"decode": [ID, ...]}               {"text": TEXT}, which ends before the first special token
  {"chat": [MESSAGE, ...], "continue": BOOL}  {"tokens": [...], "continues": BOOL}: the prompt of the next answer; if it
      continues, without what the last prompt and its answer had
  {"add": [ID, ...]}                  {"text": TEXT}: what has become certain of the answer
  {"flush": true}                     {"text": TEXT}: the rest of it, and the next answer can begin
The first line out is a greeting: `prefix`, the tokens that a text begins with; `has_template`; and `frame`, what the
chat template puts around the turns, if it was asked for. {"error": TEXT} instead of an answer says what is wrong and
what to do; with "invalid": true only that line was, and the next one is answered.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TextIO

from tributary.text.chat_template import ChatError, ChatTemplate
from tributary.text.detokenizer import Detokenizer
from tributary.text.files import ModelFolderError
from tributary.text.model_text import ModelText, load_model_text
from tributary.text.tokenizer import EncodeError, JsonTokenizer

USER, ANSWER, AGAIN = "<user's words>", "<the answer>", "<user's next words>"
WITHOUT_TEMPLATE = "ask without it: --chat-template none"

Reply = dict[str, Any]


def chat_frame(template: ChatTemplate) -> dict[str, str]:
    """What the template puts before, between and behind the words of a user, an answer, and the user again."""
    messages = [{"role": "user", "content": USER}, {"role": "assistant", "content": ANSWER},
                {"role": "user", "content": AGAIN}]
    try:
        text = template.render(messages, variables={"strftime_now": lambda _: "01 January 2026"})  # each day the same
    except ChatError as error:
        raise ModelFolderError(f"{error}; {WITHOUT_TEMPLATE}") from None
    if not text.find(USER) < text.find(ANSWER) < text.find(AGAIN) or text.count(USER) != 1:
        raise ModelFolderError(f"the chat template leaves out what was said before; {WITHOUT_TEMPLATE}")
    before, rest = text.split(USER)
    answer, rest = rest.split(ANSWER)
    return {"before": before, "answer": answer, "next": rest.split(AGAIN)[0]}


class Bridge:
    """Of one process: one answer and one chat at a time."""

    def __init__(self, model: ModelText, *, with_frame: bool) -> None:
        self._model = model
        self._tokenizer = model.tokenizer
        self._detokenizer: Detokenizer | None = None
        self._seen = ""  # the chat's text that the last prompt and its answer stand for, special tokens spelled out
        template = model.chat_template
        self.greeting: Reply = {"prefix": self._tokenizer.encode("", add_special_tokens=True),
                                "has_template": template is not None,
                                "frame": chat_frame(template) if with_frame and template is not None else None}

    def answer(self, request: Mapping[str, Any]) -> Reply:
        if "encode" in request:
            return self._encode(request["encode"], bool(request.get("special")), bool(request.get("begins")))
        if "decode" in request:
            return {"text": self._decode(request["decode"])}
        if "chat" in request:
            return self._chat(request["chat"], bool(request.get("continue")))
        return {"text": self._add(request["add"]) if "add" in request else self._flush()}

    def _encode(self, text: str, special: bool, begins: bool) -> Reply:
        if not begins:
            return {"tokens": self._tokenizer.encode(text, add_special_tokens=special)}
        if not isinstance(self._tokenizer, JsonTokenizer):
            raise ModelFolderError("places of tokens are told by a tokenizer.json only; this folder has none")
        tokens, characters = self._tokenizer.encode_with_begins(text)
        byte_of = [0]
        for character in text:
            byte_of.append(byte_of[-1] + len(character.encode()))
        return {"tokens": tokens, "begins": [byte_of[begin] for begin in characters]}

    def _decode(self, tokens: Sequence[int]) -> str:
        end = next((i for i, token in enumerate(tokens) if self._is_no_text(token)), len(tokens))
        detokenizer = self._tokenizer.detokenizer()
        return "".join(map(detokenizer.add, tokens[:end])) + detokenizer.flush()

    def _chat(self, messages: Sequence[Mapping[str, str]], may_continue: bool) -> Reply:
        template = self._model.chat_template
        if template is None:
            text = "".join(message["content"] + "\n" for message in messages)
        else:
            text = template.render(messages)
        continues = may_continue and self._seen != "" and text.startswith(self._seen)
        new = text[len(self._seen):] if continues else text
        # A template writes the special tokens itself.
        tokens = self._tokenizer.encode(new, add_special_tokens=template is None and not continues)
        self._seen = text
        self._detokenizer = None
        return {"tokens": tokens, "continues": continues}

    def _add(self, tokens: Sequence[int]) -> str:
        text = ""
        for token in tokens:
            if self._is_no_text(token):
                text += self._flush()
                self._seen += self._tokenizer.token_bytes(token).decode(errors="replace")
                continue
            self._detokenizer = self._detokenizer or self._tokenizer.detokenizer()
            piece = self._detokenizer.add(token)
            self._seen += piece
            text += piece
        return text

    def _flush(self) -> str:
        text = self._detokenizer.flush() if self._detokenizer is not None else ""
        self._detokenizer = None
        self._seen += text
        return text

    def _is_no_text(self, token: int) -> bool:
        return token in self._model.end_tokens or self._tokenizer.is_special(token)


def say(out: TextIO, reply: Reply) -> None:
    out.write(json.dumps(reply) + "\n")
    out.flush()


def serve(folder: Path, source: TextIO, out: TextIO, *, with_frame: bool) -> None:
    """Until the end of `source`."""
    try:
        bridge = Bridge(load_model_text(folder), with_frame=with_frame)
        say(out, bridge.greeting)
        for line in source:
            try:
                say(out, bridge.answer(json.loads(line)))
            except (ChatError, EncodeError) as error:
                say(out, {"error": str(error), "invalid": True})
    except ModelFolderError as error:
        say(out, {"error": str(error)})
    except BrokenPipeError:  # whoever asked has gone
        pass
    except Exception as error:  # noqa: BLE001 - a tokenizer may raise anything, and who asks must hear of it
        say(out, {"error": f"the tokenizer of {folder} failed: {type(error).__name__}: {error}"})

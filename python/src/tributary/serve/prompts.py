"""From messages or prompts to tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

from tributary.serve.errors import bad_request
from tributary.serve.schema import ChatMessage, ChatRequest, CompletionRequest, TokenizeRequest
from tributary.text import ChatError, ModelText

ROLES = ("system", "developer", "user", "assistant")
_REFUSED_ROLES = ("tool", "function")
_LONG_CHARACTERS = 4096  # worked on by another thread, so that others' streams go on

Result = TypeVar("Result")


class PromptMaker:
    def __init__(self, text: ModelText) -> None:
        self._text = text

    async def of_chat(self, body: ChatRequest) -> list[int]:
        messages = [_as_template_sees(message, i) for i, message in enumerate(body.messages)]
        return await self._of_messages(messages, body.add_generation_prompt, body.chat_template_kwargs)

    async def of_completion(self, body: CompletionRequest) -> list[list[int]]:
        prompt: Any = body.prompt
        if isinstance(prompt, str):
            return [await self._encode(prompt, True)]
        if prompt and isinstance(prompt[0], int):
            return [prompt]
        if not prompt:
            raise bad_request("the prompt is empty; it needs at least one token", "prompt")
        return [one if isinstance(one, list) else await self._encode(one, True) for one in prompt]

    async def of_tokenize(self, body: TokenizeRequest) -> list[int]:
        if (body.prompt is None) == (body.messages is None):
            raise bad_request("give either prompt or messages", "prompt")
        if body.prompt is not None:
            return await self._encode(body.prompt, body.add_special_tokens)
        messages = [_as_template_sees(message, i) for i, message in enumerate(body.messages or ())]
        return await self._of_messages(messages, body.add_generation_prompt, body.chat_template_kwargs)

    async def _of_messages(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool,
                           variables: dict[str, Any] | None) -> list[int]:
        template = self._text.chat_template
        if template is None:
            raise bad_request(f"the model {self._text.name} has no chat template; use /v1/completions, or start the "
                              "server with --chat-template FILE", "messages")
        if not messages:
            raise bad_request("messages is empty; it needs at least one", "messages")
        length = sum(len(message["content"]) for message in messages)
        try:
            prompt = await _somewhere(length, lambda: template.render(
                messages, add_generation_prompt=add_generation_prompt, variables=variables))
        except ChatError as error:
            raise bad_request(str(error), "messages") from None
        return await self._encode(prompt, False)  # the template has written the special tokens

    async def _encode(self, text: str, add_special_tokens: bool) -> list[int]:
        return await _somewhere(
            len(text), lambda: self._text.tokenizer.encode(text, add_special_tokens=add_special_tokens))


async def _somewhere(length: int, work: Callable[[], Result]) -> Result:
    return work() if length < _LONG_CHARACTERS else await asyncio.to_thread(work)


def _as_template_sees(message: ChatMessage, i: int) -> dict[str, str]:
    """Role and content, a text; parts are joined. ApiError for roles and parts that are not served."""
    where = f"messages[{i}]"
    if message.role in _REFUSED_ROLES:
        raise bad_request(f"{where} has the role {message.role!r}: this server does not call tools", f"{where}.role",
                          "unsupported_parameter")
    if message.role not in ROLES:
        raise bad_request(f"{where} has the role {message.role[:64]!r}; use one of {', '.join(ROLES)}", f"{where}.role")
    extra = message.model_extra or {}
    for name in ("tool_calls", "function_call", "audio"):
        if extra.get(name):
            raise bad_request(f"{where}.{name} is not supported: this server does not call tools and speaks no audio",
                              f"{where}.{name}", "unsupported_parameter")
    content = message.content
    if content is None:
        raise bad_request(f"{where} has no content; give a text", f"{where}.content")
    if not isinstance(content, str):
        for k, part in enumerate(content):
            if part.type != "text" or part.text is None:
                raise bad_request(f"{where}.content[{k}] is of type {part.type[:64]!r}; only text goes in and out",
                                  f"{where}.content[{k}].type", "unsupported_parameter")
        content = "".join(part.text or "" for part in content)
    # Templates know "system"; "developer" is what newer clients of OpenAI call it.
    seen = {"role": "system" if message.role == "developer" else message.role, "content": content}
    return seen if message.name is None else {**seen, "name": message.name}

"""From messages or prompts to tokens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from tributary.serve.errors import bad_request
from tributary.serve.schema import ChatMessage, ChatRequest, CompletionRequest, TokenizeRequest
from tributary.text import ChatError, EncodeError, ModelText

ROLES = ("system", "developer", "user", "assistant")
_REFUSED_ROLES = ("tool", "function")
_LONG_CHARACTERS = 512  # worked on by another thread, so that others' streams go on; below, the way there costs more
_THREADS = 2

Result = TypeVar("Result")


class PromptMaker:
    def __init__(self, text: ModelText) -> None:
        self._text = text
        self._threads = ThreadPoolExecutor(_THREADS, "prompts")

    def close(self) -> None:
        self._threads.shutdown(wait=False)

    async def of_chat(self, body: ChatRequest) -> list[int]:
        messages = [_as_template_sees(message, i) for i, message in enumerate(body.messages)]
        return await self._of_messages(messages, body.add_generation_prompt, body.chat_template_kwargs, must_fit=True)

    async def of_completion(self, body: CompletionRequest) -> list[list[int]]:
        prompt: Any = body.prompt
        if isinstance(prompt, str):
            return await self._encode([prompt], True, "prompt")
        if prompt and isinstance(prompt[0], int):
            return [prompt]
        if not prompt:
            raise bad_request("the prompt is empty; it needs at least one token", "prompt")
        return await self._encode(prompt, True, "prompt") if isinstance(prompt[0], str) else list(prompt)

    async def of_tokenize(self, body: TokenizeRequest) -> list[int]:
        if (body.prompt is None) == (body.messages is None):
            raise bad_request("give either prompt or messages", "prompt")
        if body.prompt is not None:
            return (await self._encode([body.prompt], body.add_special_tokens, "prompt", must_fit=False))[0]
        messages = [_as_template_sees(message, i) for i, message in enumerate(body.messages or ())]
        return await self._of_messages(messages, body.add_generation_prompt, body.chat_template_kwargs, must_fit=False)

    async def _of_messages(self, messages: Sequence[dict[str, str]], add_generation_prompt: bool,
                           variables: dict[str, Any] | None, *, must_fit: bool) -> list[int]:
        template = self._text.chat_template
        if template is None:
            raise bad_request(f"the model {self._text.name} has no chat template; use /v1/completions, or start the "
                              "server with --chat-template FILE", "messages")
        if not messages:
            raise bad_request("messages is empty; it needs at least one", "messages")
        length = sum(len(message["content"]) for message in messages)
        try:
            prompt = await self._somewhere(length, lambda: template.render(
                messages, add_generation_prompt=add_generation_prompt, variables=variables))
        except ChatError as error:
            raise bad_request(str(error), "messages") from None
        # The template has written the special tokens.
        return (await self._encode([prompt], False, "messages", must_fit=must_fit))[0]

    async def _encode(self, texts: Sequence[str], add_special_tokens: bool, field: str, *,
                      must_fit: bool = True) -> list[list[int]]:
        """`field` is where the texts are from. If the model's context must have room for them, those that cannot fit
        are not encoded; else they are only counted."""
        if must_fit:
            self._check_length(max(map(len, texts)), field)
        encode = self._text.tokenizer.encode
        try:
            return await self._somewhere(
                sum(map(len, texts)), lambda: [encode(text, add_special_tokens=add_special_tokens) for text in texts])
        except EncodeError as error:
            raise bad_request(str(error), field) from None

    def _check_length(self, num_characters: int, field: str) -> None:
        context, longest = self._text.max_context_tokens, self._text.tokenizer.longest_token_characters
        if context is not None and longest is not None and num_characters > context * longest:
            raise bad_request(f"the model's context is {context} tokens, which are {context * longest} characters at "
                              f"most, but the prompt has {num_characters} characters; shorten the prompt", field,
                              "context_length_exceeded")

    async def _somewhere(self, length: int, work: Callable[[], Result]) -> Result:
        if length < _LONG_CHARACTERS:
            return work()
        return await asyncio.get_running_loop().run_in_executor(self._threads, work)


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
            if part.type != "text":
                raise bad_request(f"{where}.content[{k}] is of type {part.type[:64]!r}; only text goes in and out",
                                  f"{where}.content[{k}].type", "unsupported_parameter")
            if part.text is None:
                raise bad_request(f"{where}.content[{k}] is of type 'text' but has no text; give it as 'text'",
                                  f"{where}.content[{k}].text")
        content = "".join(part.text or "" for part in content)
    # Templates know "system"; "developer" is what newer clients of OpenAI call it.
    seen = {"role": "system" if message.role == "developer" else message.role, "content": content}
    return seen if message.name is None else {**seen, "name": message.name}

"""The bodies of requests. Fields beyond these are refused or ignored by refused.py."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator
from pydantic_core import PydanticCustomError

MAX_MESSAGES = 16384
MAX_PARTS = 16384  # of a message
MAX_STOP_TOKENS = 16384
MAX_BIASES = 1024  # base/limits.h
MAX_PARAMETERS = 64  # base/limits.h
_MAX_FIELDS = 64

Element = TypeVar("Element")

# An error is kept for each wrong element, and in a union once more for each alternative: a body of a megabyte would
# become a gigabyte of errors, made while nothing else runs. So a list ends at its first wrong element, and a dict or
# object, for which there is no such option, is counted before it is looked at.
List = Annotated[list[Element], Field(fail_fast=True)]


def _at_most(count: int, what: str) -> Callable[[Any], Any]:
    def check(value: Any) -> Any:
        if isinstance(value, dict) and len(value) > count:
            raise PydanticCustomError("too_long", f"names {len(value)} {what}; at most {count} can be")
        return value

    return check


Count = Annotated[int, Field(ge=0, lt=1 << 32)]
TokenIds = List[Count]
Number = Annotated[float, Field(allow_inf_nan=False)]
Integer = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]
MaxTokens = Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)]  # that it is too few is plan.py's to say
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class _NullIsNothing(BaseModel):
    """A field that is null is one that was left out, unless it is needed."""

    @model_validator(mode="before")
    @classmethod
    def _without_nulls(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        needed = {name for name, field in cls.model_fields.items() if field.is_required()}
        return {name: given for name, given in value.items() if given is not None or name in needed}


class _Strict(_NullIsNothing):
    model_config = ConfigDict(strict=True, extra="forbid")

    @model_validator(mode="before")
    @classmethod
    def _few_fields(cls, value: Any) -> Any:
        return _at_most(_MAX_FIELDS, "fields")(value)


class TributaryOptions(_Strict):
    """What is Tributary's own: placement of the KV, policy, keeping. Unset fields take the cluster's defaults."""

    policy: str = ""
    quality: str = ""
    parameters: Annotated[dict[str, Number | Integer | str | TokenIds | List[TokenIds]],
                          BeforeValidator(_at_most(MAX_PARAMETERS, "parameters"))] = {}
    window_tokens: Count | None = None
    sink_tokens: Count | None = None
    block_tokens: Count | None = None
    all_resident: bool = False
    kv_dtype: str | None = None
    remote_k_dtype: str | None = None
    remote_v_dtype: str | None = None
    shard_cut: str = "auto"
    max_nodes: Count | None = None
    report_attention_heads: bool = False
    max_stall_s: Annotated[float, Field(ge=0, le=3600)] = 0
    keep: bool | None = None  # None: chats are kept, completions are not


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool | None = None  # OpenAI's padding of chunks: there is none here


class _Sampled(_NullIsNothing):
    """What chats and completions have in common."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 32)] | None = None  # 0 and -1 turn it off
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(ge=0.01, le=100, allow_inf_nan=False)] | None = None
    logit_bias: Annotated[dict[str, Bias], BeforeValidator(_at_most(MAX_BIASES, "tokens"))] | None = None  # by token id
    seed: Integer | None = None  # OpenAI's are signed, the engine's are not
    n: Annotated[int, Field(ge=1, lt=1 << 31)] | None = None
    max_tokens: MaxTokens | None = None
    stop: str | List[str] | None = None
    stop_token_ids: Annotated[TokenIds, Field(max_length=MAX_STOP_TOKENS)] | None = None
    ignore_eos: bool | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    tributary: TributaryOptions = TributaryOptions()


class ContentPart(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    type: str
    text: str | None = None


class ChatMessage(BaseModel):
    model_config = ConfigDict(strict=True, extra="allow")

    role: str
    content: str | Annotated[List[ContentPart], Field(max_length=MAX_PARTS)] | None = None
    name: str | None = None


Messages = Annotated[List[ChatMessage], Field(max_length=MAX_MESSAGES)]


class ChatRequest(_Sampled):
    messages: Messages
    max_completion_tokens: MaxTokens | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True


class CompletionRequest(_Sampled):
    prompt: str | TokenIds | List[str] | List[TokenIds]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None


class TokenizeRequest(_Strict):
    model: str | None = None
    prompt: str | None = None
    messages: Messages | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: bool | None = None

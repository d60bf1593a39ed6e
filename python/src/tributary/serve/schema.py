"""The bodies of requests. Fields beyond these are refused or ignored by refused.py."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field

Count = Annotated[int, Field(ge=0, lt=1 << 32)]
Seed = Annotated[int, Field(ge=-(1 << 63), lt=1 << 64)]
TokenIds = list[Count]
Penalty = Annotated[float, Field(ge=-2, le=2, allow_inf_nan=False)]
Bias = Annotated[float, Field(ge=-100, le=100, allow_inf_nan=False)]


class _Strict(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")


class TributaryOptions(_Strict):
    """What is Tributary's own: placement of the KV, policy, keeping. Unset fields take the cluster's defaults."""

    policy: str = ""
    parameters: dict[str, float | int | str | list[int] | list[list[int]]] = {}
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
    keep: bool | None = None  # None: chats are kept, completions are not


class StreamOptions(_Strict):
    include_usage: bool = False
    include_obfuscation: bool | None = None  # OpenAI's padding of chunks: there is none here


class _Sampled(BaseModel):
    """What chats and completions have in common."""

    model_config = ConfigDict(strict=True, extra="allow")

    model: str | None = None
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1, allow_inf_nan=False)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=1 << 32)] | None = None  # 0 and -1 turn it off
    min_p: Annotated[float, Field(ge=0, le=1, allow_inf_nan=False)] | None = None
    presence_penalty: Penalty | None = None
    frequency_penalty: Penalty | None = None
    repetition_penalty: Annotated[float, Field(gt=0, le=100, allow_inf_nan=False)] | None = None
    logit_bias: dict[str, Bias] | None = None  # by token id
    seed: Seed | None = None
    n: Annotated[int, Field(ge=1)] | None = None
    max_tokens: Annotated[int, Field(lt=1 << 31)] | None = None
    stop: str | list[str] | None = None
    stop_token_ids: TokenIds | None = None
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
    content: str | list[ContentPart] | None = None
    name: str | None = None


class ChatRequest(_Sampled):
    messages: list[ChatMessage]
    max_completion_tokens: Annotated[int, Field(lt=1 << 31)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    chat_template_kwargs: dict[str, Any] | None = None
    add_generation_prompt: bool = True


class CompletionRequest(_Sampled):
    prompt: str | TokenIds | list[str] | list[TokenIds]
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    echo: bool | None = None


class TokenizeRequest(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid")

    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = True
    add_generation_prompt: bool = True
    chat_template_kwargs: dict[str, Any] | None = None
    return_token_strs: Literal[True, False] | None = None

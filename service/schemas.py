"""What comes in and goes out as JSON. Strict: no coercion, and an unknown field is an error."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, model_validator

Strategy = Literal["concat", "parallel", "sequential"]
Role = Literal["system", "user", "assistant", "tool"]
# OpenAI's limits on metadata.
MetadataKey = Annotated[str, StringConstraints(min_length=1, max_length=64)]
MetadataValue = Annotated[str, StringConstraints(max_length=512)]
Metadata = Annotated[dict[MetadataKey, MetadataValue], Field(max_length=16)]
StopText = Annotated[str, StringConstraints(min_length=1, max_length=256)]

MAX_CHOICES = 16
MAX_LOGPROBS = 20  # vLLM's own default limit
MAX_MESSAGES = 10_000
INT64 = 2**63

EXAMPLE_ID = "ga-3f6c1f0f8b2e4d7a9c5b1e2d3f4a5b6c"


class Body(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True)


class Message(Body):
    role: Role
    content: str


class DocumentIn(Body):
    text: str
    title: str | None = Field(None, max_length=512)


class ContextualizeOptions(Body):
    ttl_seconds: int | None = Field(None, ge=1, description="Life of the adapter; the server's default if unset")
    metadata: Metadata = Field(default_factory=dict, description="Up to 16 strings by name, given back as they are")
    strategy: Strategy | None = Field(None, description="How chunks are joined; the checkpoint's default if unset")
    keep_state: bool | None = Field(
        None,
        description="Keep what is needed to append to this adapter later; if unset, no for a new one, yes for an append",
    )


class ContextualizeRequest(ContextualizeOptions):
    """Exactly one of `text`, `messages` and `documents`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {"text": "The Orchid III is moored at pier 14. Her captain is Ida Marsh.", "ttl_seconds": 86400},
                {"documents": [{"title": "Harbour log", "text": "The Orchid III is moored at pier 14."}]},
                {"messages": [{"role": "user", "content": "My boat is called Orchid III."}]},
            ]
        }
    )

    text: str | None = None
    messages: list[Message] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    documents: list[DocumentIn] | None = Field(None, min_length=1)

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if sum(source is not None for source in (self.text, self.messages, self.documents)) != 1:
            raise ValueError("send exactly one of text, messages and documents")
        return self


class GenerateRequest(Body):
    """Exactly one of `prompt` and `messages`."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "adapter_id": EXAMPLE_ID,
                    "messages": [{"role": "user", "content": "Where is my boat?"}],
                    "max_tokens": 64,
                },
                {"adapter_id": None, "prompt": "The harbour of", "max_tokens": 16, "temperature": 0},
            ]
        }
    )

    adapter_id: str | None = Field(None, description="null: the base model alone")
    prompt: str | None = Field(None, min_length=1)
    messages: list[Message] | None = Field(None, min_length=1, max_length=MAX_MESSAGES)
    max_tokens: int = Field(256, ge=1)
    temperature: float | None = Field(None, ge=0, le=2, description="The base model's own default if unset")
    top_p: float | None = Field(None, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, le=1_000_000, description="-1 or 0: all tokens")
    stop: StopText | Annotated[list[StopText], Field(max_length=16)] | None = None
    seed: int | None = Field(None, ge=-INT64, lt=INT64)
    n: int = Field(1, ge=1, le=MAX_CHOICES)
    logprobs: int | None = Field(
        None, ge=0, le=MAX_LOGPROBS, description="Log probabilities of so many likeliest tokens"
    )
    stream: bool = False

    @model_validator(mode="after")
    def _one_source(self) -> Self:
        if (self.prompt is None) == (self.messages is None):
            raise ValueError("send exactly one of prompt and messages")
        return self


class ContextualizeTimings(BaseModel):
    """Milliseconds; a stage that was not needed is 0."""

    parse: float = 0
    tokenize: float = 0
    queue: float = 0
    forward: float = 0
    factorize: float = 0
    store: float = 0


class AdapterOut(BaseModel):
    """Times are Unix time in seconds."""

    id: str = Field(examples=[EXAMPLE_ID])
    object: Literal["adapter"] = "adapter"
    base_model: str
    generator: str = Field(description="Fingerprint of the generator that made it")
    created_at: int
    expires_at: int
    tokens: int
    chunks: int
    rank: int
    bytes: int
    strategy: Strategy
    parent: str | None = Field(description="The adapter that this one was appended to")
    state_expires_at: int | None = Field(description="Until then it can be appended to; null without keep_state")
    metadata: dict[str, str]


class ContextualizeResponse(AdapterOut):
    reused: bool
    timings_ms: ContextualizeTimings


class SourceText(BaseModel):
    text: str


class AdapterList(BaseModel):
    object: Literal["list"] = "list"
    data: list[AdapterOut]
    has_more: bool
    first_id: str | None
    last_id: str | None = Field(description="Send it as `after` for the next page")


class TokenLogprob(BaseModel):
    token: str
    logprob: float


class TokenLogprobs(TokenLogprob):
    top_logprobs: list[TokenLogprob]


class ChoiceLogprobs(BaseModel):
    content: list[TokenLogprobs]


class Choice(BaseModel):
    index: int
    text: str
    finish_reason: str | None
    logprobs: ChoiceLogprobs | None = None


class Usage(BaseModel):
    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class GenerateTimings(BaseModel):
    """Milliseconds."""

    resolve: float
    first_token: float | None
    total: float


class GenerateResponse(BaseModel):
    """The whole answer, or one event of a stream: there, `text` is what is new, and the last event carries usage and
    timings."""

    id: str
    adapter_id: str | None
    model: str
    choices: list[Choice]
    usage: Usage | None
    timings_ms: GenerateTimings | None


class ErrorDetail(BaseModel):
    message: str
    type: str
    param: str | None
    code: str | None


class ErrorBody(BaseModel):
    error: ErrorDetail


class Readiness(BaseModel):
    ready: bool
    parts: dict[str, Any]

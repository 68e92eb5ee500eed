"""Requests as OpenAI's clients send them, with our `steer` object.

Unknown fields are errors, so that a misspelt dial is never silently ignored. What OpenAI's API has and this server has
not is refused where it would change the answer, and accepted at its neutral value.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, WithJsonSchema


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


_SETTING = {"type": "object", "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "string"}]}}
_STRENGTH = {
    "anyOf": [{"type": "number"}, {"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]
}
_WEIGHTS = {"anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]}
# checked by `steering`, whose messages name the attributes and their ranges
AnySetting = Annotated[Any, WithJsonSchema({"anyOf": [_SETTING, {"type": "null"}]})]
AnyStrength = Annotated[Any, WithJsonSchema(_STRENGTH)]
AnyWeights = Annotated[Any, WithJsonSchema(_WEIGHTS)]


class Steer(_Strict):
    """How to steer."""

    attributes: AnySetting = Field(None, description="Values by attribute; ordinal ones may lie between two levels.")
    preset: str | None = Field(None, description="A named setting; `attributes` overrides it.")
    guidance: AnyStrength = Field(
        None, description="Strength of all attributes, or by name: 1 = ordinary, 0 = as if not set."
    )
    best_of: int | None = Field(None, ge=1, description="Draw so many samples, return the `n` nearest to the request.")
    weights: AnyWeights = Field(None, description="With best_of: maximise this weighted sum of scores instead.")
    return_scores: bool = Field(False, description="Score the answers with the attribute model.")
    strict: bool = Field(False, description="Refuse a setting that is far from the training data.")


class TemplateArguments(_Strict):
    """What a stock vLLM server hands to the chat template."""

    attributes: AnySetting = Field(None, description="The attributes of the prompt, exactly these.")


class TextPart(_Strict):
    """A part of a message; only text."""

    type: Literal["text"]
    text: str


class ChatMessage(_Strict):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[TextPart]
    name: str | None = None
    attributes: AnySetting = Field(None, description="Assistant only: the values it was written with.")
    # an answer that goes back as OpenAI's client holds it has these fields, empty
    refusal: None = None
    annotations: None = None
    audio: None = None
    function_call: None = None
    tool_calls: None = None
    parsed: None = None

    @property
    def text(self) -> str:
        if isinstance(self.content, str):
            return self.content
        return "".join(part.text for part in self.content)


class StreamOptions(_Strict):
    """Options of a streamed answer."""

    include_usage: bool = False
    include_obfuscation: bool = False


class ResponseFormat(_Strict):
    """The form of the answer; only text."""

    type: Literal["text"]


class _Common(_Strict):
    """What both kinds of completion take."""

    model: str = Field(description="The model's name, as it is or with a setting: `model@humor=4,verbosity=1`.")
    stream: bool | None = False
    stream_options: StreamOptions | None = None
    max_tokens: int | None = Field(None, ge=1)
    n: int | None = Field(1, ge=1)
    stop: str | list[str] | None = None
    stop_token_ids: list[int] | None = Field(None, description="Control tokens only: they end every answer anyway.")
    skip_special_tokens: bool | None = Field(None, description="No matter: an answer holds no control token.")
    seed: int | None = Field(None, ge=-(1 << 63), lt=1 << 63)
    temperature: float | None = Field(1.0, ge=0, le=2)
    top_p: float | None = Field(1.0, gt=0, le=1)
    top_k: int | None = Field(None, ge=-1, description="0 or -1 = all tokens.")
    steer: Steer | None = None
    chat_template_kwargs: TemplateArguments | None = None
    presence_penalty: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = 0
    frequency_penalty: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = 0
    repetition_penalty: Literal[1] | Annotated[float, Field(ge=1, le=1)] | None = 1
    min_p: Literal[0] | Annotated[float, Field(ge=0, le=0)] | None = 0
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None
    user: str | None = None
    metadata: dict[str, str] | None = None

    @property
    def stops(self) -> list[str]:
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop


class ChatRequest(_Common):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1)
    max_completion_tokens: int | None = Field(None, ge=1)
    logprobs: bool | None = False
    top_logprobs: int | None = Field(None, ge=0, le=20)
    verbosity: Literal["low", "medium", "high"] | None = None
    response_format: ResponseFormat | None = None
    modalities: list[Literal["text"]] | None = None
    tools: Annotated[list[object], Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None
    parallel_tool_calls: bool | None = None
    store: Literal[False] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default"] | None = None


class CompletionRequest(_Common):
    """`POST /v1/completions`. The prompt is a user's message: without the template no lock would hold."""

    prompt: str | Annotated[list[str], Field(min_length=1)]
    logprobs: int | None = Field(None, ge=0, le=20)
    echo: bool | None = False
    suffix: Literal[""] | None = None
    best_of: Literal[1] | None = Field(None, description="Use `steer.best_of`.")


class ScoreRequest(_Strict):
    """`POST /v1/score`."""

    model: str | None = None
    messages: list[ChatMessage] | None = Field(None, description="One conversation that ends with an answer.")
    conversations: list[list[ChatMessage]] | None = Field(None, description="Several of them.")

"""Requests as OpenAI's clients send them, with our `steer` object.

Unknown fields are errors, so that a misspelt dial is never silently ignored; one that is null says nothing and is
dropped. What OpenAI's API has and this server has not is refused where it would change the answer, and accepted at its
neutral value.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, NamedTuple

from fastapi.exceptions import RequestValidationError
from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

_NOT_TEXT = {
    "image": "images", "image_url": "images", "input_image": "images", "audio": "audio parts",
    "input_audio": "audio parts", "file": "files", "input_file": "files", "video_url": "videos", "refusal": "refusals",
    "function_call": "tools", "function_call_output": "tools", "tool_call": "tools", "tool_result": "tools",
    "reasoning": "reasoning items", "item_reference": "stored items",
}  # fmt: skip
"""What other kinds of parts and items hold, by their `type`."""


def unsupported(what: str, fix: str) -> PydanticCustomError:
    """Return the error for something that OpenAI's API has and this server has not."""
    verb = "are" if what.endswith("s") else "is"
    return PydanticCustomError(
        "unsupported", "{what} not supported here; {fix}", {"what": f"{what} {verb}", "fix": fix}
    )


def check_kind(raw: object) -> None:
    """Refuse parts and items that are no text."""
    if isinstance(raw, Mapping) and isinstance(raw.get("type"), str) and raw["type"] in _NOT_TEXT:
        raise unsupported(_NOT_TEXT[raw["type"]], "send text only")


@dataclass(frozen=True, eq=False)  # 0 and False differ, and equal annotations would be one
class Only:
    """Metadata of a field that has no effect here: only null and these neutral values are accepted.

    Attributes:
        values: the neutral ones.
        instead: what to do instead of giving another one.
    """

    values: tuple[object, ...] = ()
    instead: str = ""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.with_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return {"enum": [None, *self.values]}

    def _check(self, value: object, info: ValidationInfo) -> object:
        for neutral in self.values:
            if value == neutral and isinstance(value, bool) == isinstance(neutral, bool):
                return None
        if value is not None:
            words = " or ".join(repr(neutral) for neutral in self.values)
            fix = self.instead or f"leave it out{f' or at {words}' if words else ''}"
            raise unsupported(str(info.field_name), fix)
        return None


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Tolerant(_Strict):
    """Fields that nobody knows may be null: clients send all that they know of."""

    @model_validator(mode="before")
    @classmethod
    def _drop_null(cls, raw: object) -> object:
        if isinstance(raw, dict):
            return {name: value for name, value in raw.items() if value is not None or name in cls.model_fields}
        return raw


_SETTING = {"type": "object", "additionalProperties": {"anyOf": [{"type": "number"}, {"type": "string"}]}}
_STRENGTH = {
    "anyOf": [{"type": "number"}, {"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]
}
_WEIGHTS = {"anyOf": [{"type": "object", "additionalProperties": {"type": "number"}}, {"type": "null"}]}
# checked by `steering`, whose messages name the attributes and their ranges
AnySetting = Annotated[Any, WithJsonSchema({"anyOf": [_SETTING, {"type": "null"}]})]
AnyStrength = Annotated[Any, WithJsonSchema(_STRENGTH)]
AnyWeights = Annotated[Any, WithJsonSchema(_WEIGHTS)]
Verbosity = Literal["low", "medium", "high"]


class Steer(_Strict):
    """How to steer."""

    attributes: AnySetting = Field(None, description="Values by attribute; ordinal ones may lie between two levels.")
    preset: str | None = Field(None, description="A named setting; `attributes` overrides it.")
    guidance: AnyStrength = Field(
        None, description="Strength of all attributes, or by name: 1 = ordinary, 0 = as if not set."
    )
    best_of: int | None = Field(None, ge=1, description="Draw so many samples, return the `n` nearest to the request.")
    weights: AnyWeights = Field(None, description="With best_of above n: maximise this weighted sum of scores instead.")
    return_scores: bool = Field(False, description="Score the answers with the attribute model.")
    demonstrations: int = Field(
        0, ge=0, description="Show the model so many training answers near the setting, as earlier turns."
    )
    auto: bool = Field(False, description="Take what is not set from the prompt, rather than the defaults.")
    strict: bool = Field(False, description="Refuse a setting that is far from the training data.")


class TemplateArguments(_Strict):
    """What a stock vLLM server hands to the chat template."""

    attributes: AnySetting = Field(None, description="The attributes of the prompt, exactly these.")


class TextPart(Tolerant):
    """A part of a message; only text."""

    type: Literal["text", "input_text", "output_text"]
    text: str
    annotations: list[object] | None = Field(None, description="Of an answer that goes back; no matter.")
    logprobs: list[object] | None = Field(None, description="Of an answer that goes back; no matter.")

    @model_validator(mode="before")
    @classmethod
    def _only_text(cls, raw: object) -> object:
        check_kind(raw)
        return raw


class ChatMessage(Tolerant):
    """A message."""

    role: Literal["system", "developer", "user", "assistant"] = Field(description="`developer` means `system`.")
    content: str | list[TextPart] | None = Field(None, description="Text; may be null in an assistant's message.")
    name: str | None = None
    attributes: AnySetting = Field(None, description="Assistant only: the values it was written with.")
    # an answer that goes back as a client holds it has these fields, empty or for people
    refusal: Annotated[object, Only(("",))] = None
    audio: Annotated[object, Only()] = None
    function_call: Annotated[object, Only()] = None
    tool_calls: Annotated[object, Only(([],))] = None
    parsed: Annotated[object, Only()] = None
    annotations: list[object] | None = None
    reasoning_content: str | None = None
    reasoning: str | None = None

    @field_validator("role", mode="before")
    @classmethod
    def _no_tools(cls, role: object) -> object:
        if role in ("tool", "function"):
            raise unsupported("tools", "send text only")
        return role

    @model_validator(mode="after")
    def _has_text(self) -> ChatMessage:
        if self.content is None and self.role != "assistant":
            raise PydanticCustomError("no_content", "a message of the role {role} needs content", {"role": self.role})
        return self

    @property
    def text(self) -> str:
        if isinstance(self.content, list):
            return "".join(part.text for part in self.content)
        return self.content or ""


class StreamOptions(Tolerant):
    """Options of a streamed answer."""

    include_usage: bool | None = Field(False, description="Tell the tokens in an extra last chunk.")
    include_obfuscation: bool | None = Field(False, description="No matter.")


class Steered(Tolerant):
    """What every request for an answer takes."""

    model: str = Field(description="The model's name, as it is or with a setting: `model@humor=4,verbosity=1`.")
    stream: bool | None = Field(False, description="Send the answer while it grows.")
    stream_options: StreamOptions | None = Field(None, description="`include_usage`: tell the tokens at the end.")
    temperature: float | None = Field(1.0, ge=0, le=2, description="0 takes the likeliest token.")
    top_p: float | None = Field(1.0, gt=0, le=1, description="Draw from the smallest set of this probability.")
    top_k: int | None = Field(None, ge=-1, description="Draw from the k likeliest tokens; 0 or -1 = all.")
    seed: int | None = Field(
        None,
        ge=-(1 << 63),
        lt=1 << 63,
        description="The same request repeats its answer (in bf16: up to rounding).",
    )
    stop: str | list[str] | None = Field(None, description="Texts that end an answer; they are no part of it.")
    steer: Steer | None = Field(None, description="How to steer.")
    chat_template_kwargs: TemplateArguments | None = Field(None, description="As a stock vLLM server takes it.")
    user: str | None = None
    metadata: dict[str, str] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    service_tier: str | None = None
    store: bool | None = Field(None, description="No matter: nothing is stored.")
    parallel_tool_calls: bool | None = None
    tools: Annotated[object, Only(([],))] = None
    tool_choice: Annotated[object, Only(("none", "auto"))] = None

    @property
    def stops(self) -> list[str]:
        if self.stop is None:
            return []
        return [self.stop] if isinstance(self.stop, str) else self.stop


class _Common(Steered):
    """What both kinds of completion take."""

    max_tokens: int | None = Field(None, ge=0, description="Longest answer in tokens; 0 only in completions.")
    n: int | None = Field(1, ge=1, description="How many answers.")
    stop_token_ids: list[int] | None = Field(None, description="Control tokens only: they end every answer anyway.")
    skip_special_tokens: bool | None = Field(None, description="No matter: an answer holds no control token.")
    presence_penalty: Annotated[object, Only((0,))] = None
    frequency_penalty: Annotated[object, Only((0,))] = None
    repetition_penalty: Annotated[object, Only((1,))] = None
    length_penalty: Annotated[object, Only((1,))] = None
    min_p: Annotated[object, Only((0,))] = None
    min_tokens: Annotated[object, Only((0,))] = None
    logit_bias: Annotated[object, Only(({},))] = None
    ignore_eos: Annotated[object, Only((False,))] = None
    use_beam_search: Annotated[object, Only((False,))] = None
    include_stop_str_in_output: Annotated[object, Only((False,))] = None


class ChatRequest(_Common):
    """`POST /v1/chat/completions`."""

    messages: list[ChatMessage] = Field(min_length=1, description="The conversation.")
    max_completion_tokens: int | None = Field(None, ge=1, description="Longest answer in tokens.")
    logprobs: bool | None = Field(False, description="Report the log-probability of every token.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="So many of the likeliest tokens with each.")
    verbosity: Verbosity | None = Field(None, description="Lowest, middle or highest level of the attribute.")
    continue_final_message: bool | None = Field(False, description="Go on with the last message, an assistant's.")
    add_generation_prompt: bool | None = Field(None, description="True, but false with `continue_final_message`.")
    echo: Annotated[object, Only((False,))] = None
    response_format: Annotated[object, Only(({"type": "text"},))] = None
    modalities: Annotated[object, Only((["text"],))] = None
    functions: Annotated[object, Only(([],))] = None
    function_call: Annotated[object, Only(("none", "auto"))] = None
    reasoning_effort: Annotated[object, Only(("none",))] = None
    audio: Annotated[object, Only()] = None
    prediction: Annotated[object, Only()] = None
    web_search_options: Annotated[object, Only()] = None


class CompletionRequest(_Common):
    """`POST /v1/completions`. The prompt is a user's message: without the template no lock would hold."""

    prompt: str | list[str] | list[int] | list[list[int]] = Field(
        description="A text or several, also as token ids.", min_length=1
    )
    logprobs: int | None = Field(None, ge=0, le=20, description="So many of the likeliest tokens with each token.")
    echo: bool | None = Field(
        False, description="The prompt comes first; with `logprobs` also those of its text alone, without the template."
    )
    suffix: Annotated[object, Only(("",))] = None
    best_of: Annotated[object, Only((1,))] = Field(None, description="Use `steer.best_of`.")

    @property
    def prompts(self) -> list[str | list[int]]:
        if isinstance(self.prompt, str):
            return [self.prompt]
        ids = [index for index in self.prompt if isinstance(index, int)]
        return [ids] if ids else [prompt for prompt in self.prompt if not isinstance(prompt, int)]


class ScoreRequest(Tolerant):
    """`POST /v1/score`."""

    model: str | None = None
    messages: list[ChatMessage] | None = Field(None, description="One conversation that ends with an answer.")
    conversations: list[list[ChatMessage]] | None = Field(None, description="Several of them.")


class Problem(NamedTuple):
    """What is wrong with a request, for people; where; and whether it is something that this server has not."""

    message: str
    where: str
    unsupported: bool


def problems(error: RequestValidationError) -> list[Problem]:
    """Return what is wrong with a request's body, what matters most first; nothing of it is quoted but short values."""
    found: dict[str, Problem] = {}
    # where a text or a list may stand: what is wrong with it says more than that it is not the other
    for raw in sorted(error.errors(), key=lambda raw: raw["type"] == "string_type"):
        where = _place(raw, error.body)
        found.setdefault(where, Problem(_message(raw, where, error.body), where, raw["type"] == "unsupported"))
    inner = [p for p in found.values() if not any(other.startswith(f"{p.where}.") for other in found)]
    return sorted(inner, key=lambda problem: not problem.unsupported)


def _place(raw: Mapping[str, Any], body: object) -> str:
    """Return the place in the body, without the names of types among which pydantic has tried."""
    kept: list[str] = []
    value: Any = body
    *_, last = raw["loc"]
    for part in raw["loc"][1:] if raw["type"] != "json_invalid" else ():
        inside = isinstance(value, dict) and part in value
        if inside or (isinstance(value, list) and isinstance(part, int) and part < len(value)):
            value = value[part]
        elif part != last or raw["type"] != "missing":
            continue
        kept.append(str(part))
    return ".".join(kept)[:100]


def _message(raw: Mapping[str, Any], where: str, body: object) -> str:
    match raw["type"]:
        case "unsupported":
            return str(raw["msg"])
        case "missing":
            return f"{where or 'the body'} is missing"
        case "extra_forbidden":
            name = where.rpartition(".")[2]
            if where in Steer.model_fields:
                return f"unknown field {where}: it belongs into steer"
            # a field of another object may have this very name
            close = difflib.get_close_matches(name, _FIELDS - {name}, n=1)
            return f"unknown field {where}" + "".join(f": did you mean {name}?" for name in close)
        case "json_invalid":
            before = str(body)[: raw["loc"][-1]].split("\n")
            place = f"line {len(before)}, column {len(before[-1]) + 1}"
            return f"the body is not valid JSON: {raw['ctx']['error']} at {place}"
        case "model_attributes_type" if not where:
            return "the body must be a JSON object"
    value = raw.get("input")
    quoted = repr(value) if isinstance(value, str | int | float | bool | None) else ""
    return f"{where or 'the body'}: {raw['msg']}" + (f", got {quoted}" if 0 < len(quoted) <= 60 else "")


_FIELDS = {
    name for model in (ChatRequest, CompletionRequest, ScoreRequest, ChatMessage, Steer) for name in model.model_fields
}

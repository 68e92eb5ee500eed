"""The Responses API (`POST /v1/responses`), which OpenAI's newer clients call by default; text in and out.

Nothing is stored, so the whole conversation comes with every request: `previous_response_id` is refused.
"""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator
from typing import Annotated, Literal

from pydantic import Field, model_validator

from steerlm.server.answering import Run
from steerlm.server.backend import Answer, Plan
from steerlm.server.errors import ApiError
from steerlm.server.protocol import ChatMessage, ChatRequest, Only, Steered, Tolerant, Verbosity, check_kind
from steerlm.server.replies import chat_entries, with_scores
from steerlm.server.streaming import event

_STATELESS = "nothing is stored here: send the whole conversation as input"
_LOGPROBS = "message.output_text.logprobs"


class InputMessage(ChatMessage):
    """An item of the input; only messages."""

    type: Literal["message"] | None = None
    id: str | None = None
    status: str | None = None
    phase: str | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_messages(cls, raw: object) -> object:
        check_kind(raw)
        return raw


class TextOptions(Tolerant):
    """The form of the answer; only text."""

    format: Annotated[object, Only(({"type": "text"},))] = None
    verbosity: Verbosity | None = Field(None, description="Lowest, middle or highest level of the attribute.")


class ReasoningOptions(Tolerant):
    """Nothing: the model does not think aloud."""

    effort: Annotated[object, Only(("none",))] = None
    summary: Annotated[object, Only()] = None
    generate_summary: Annotated[object, Only()] = None
    context: Annotated[object, Only()] = None


class ResponsesRequest(Steered):
    """`POST /v1/responses`."""

    input: str | Annotated[list[InputMessage], Field(min_length=1)] = Field(description="A question or a conversation.")
    instructions: str | None = Field(None, description="A system message in front of the input.")
    max_output_tokens: int | None = Field(None, ge=1, description="Longest answer in tokens.")
    top_logprobs: int | None = Field(None, ge=0, le=20, description="So many of the likeliest tokens with each.")
    include: list[Literal["message.output_text.logprobs", "reasoning.encrypted_content"]] | None = Field(
        None, description="`message.output_text.logprobs`: report the log-probability of every token."
    )
    text: TextOptions | None = None
    reasoning: ReasoningOptions | None = None
    previous_response_id: Annotated[object, Only(instead=_STATELESS)] = None
    conversation: Annotated[object, Only(instead=_STATELESS)] = None
    truncation: Annotated[object, Only(("disabled",))] = None
    background: Annotated[object, Only((False,))] = None
    prompt: Annotated[object, Only()] = None
    max_tool_calls: int | None = None

    def chat(self) -> ChatRequest:
        """Return the same request to `/v1/chat/completions`."""
        messages: list[ChatMessage] = []
        if self.instructions is not None:
            messages.append(ChatMessage(role="system", content=self.instructions))
        if isinstance(self.input, str):
            messages.append(ChatMessage(role="user", content=self.input))
        else:
            messages += self.input
        logprobs = bool(self.top_logprobs) or _LOGPROBS in (self.include or ())
        return ChatRequest(
            model=self.model, messages=messages, stream=self.stream, temperature=self.temperature, top_p=self.top_p,
            top_k=self.top_k, seed=self.seed, stop=self.stop, steer=self.steer,
            chat_template_kwargs=self.chat_template_kwargs, max_completion_tokens=self.max_output_tokens,
            verbosity=self.text.verbosity if self.text else None, logprobs=logprobs,
            top_logprobs=self.top_logprobs,
        )  # fmt: skip


class ResponseWriter:
    """One reply: whole, or as events."""

    def __init__(self, body: ResponsesRequest, plan: Plan) -> None:
        self._body, self._plan = body, plan
        self._id, self._item = f"resp_{secrets.token_hex(16)}", f"msg_{secrets.token_hex(16)}"
        self._created = int(time.time())
        self._number = -1

    def reply(self, run: Run) -> dict[str, object]:
        """Return the whole `response`."""
        [answer] = run.answers
        usage = run.usage()
        counts = {
            "input_tokens": usage["prompt_tokens"],
            "input_tokens_details": {"cached_tokens": 0},
            "output_tokens": usage["completion_tokens"],
            "output_tokens_details": {"reasoning_tokens": 0},
            "total_tokens": usage["total_tokens"],
        }
        cut = {"reason": "max_output_tokens"} if answer.finish_reason == "length" else None
        told = {"output": [self._message(answer, run)], "usage": counts, "incomplete_details": cut}
        return self._response(_status(answer)) | told

    async def events(self, run: Run) -> AsyncGenerator[bytes]:
        """Yield the events of a streamed reply."""
        place = {"item_id": self._item, "output_index": 0, "content_index": 0}
        item = {"id": self._item, "type": "message", "status": "in_progress", "role": "assistant", "content": []}
        start = self._event("response.created", response=self._response("in_progress"))
        start += self._event("response.in_progress", response=self._response("in_progress"))
        start += self._event("response.output_item.added", output_index=0, item=item)
        yield start + self._event("response.content_part.added", **place, part=_part("", []))
        sent = told = 0
        async with contextlib.aclosing(run.news()) as news:
            async for _ in news:
                answer = run.answers[0]
                new, entries = answer.shown()[sent:], answer.logprobs[told:]
                if new:
                    sent, told = sent + len(new), told + len(entries)
                    yield self._event("response.output_text.delta", **place, delta=new, logprobs=chat_entries(entries))
        answer = run.answers[0]
        part = self._part(answer)
        end = self._event("response.output_text.done", **place, text=answer.text, logprobs=part["logprobs"])
        end += self._event("response.content_part.done", **place, part=part)
        end += self._event("response.output_item.done", output_index=0, item=self._message(answer, run))
        kind = f"response.{_status(answer)}"
        yield end + self._event(kind, response=self.reply(run))

    def failed(self, error: ApiError) -> bytes:
        """Return the last event of a stream that breaks off."""
        told = {"code": "server_error", "message": error.message}
        return self._event("response.failed", response=self._response("failed") | {"error": told})

    def _event(self, kind: str, **data: object) -> bytes:
        self._number += 1
        return event({"type": kind, "sequence_number": self._number, **data}, kind)

    def _message(self, answer: Answer, run: Run) -> dict[str, object]:
        message: dict[str, object] = {
            "id": self._item,
            "type": "message",
            "status": _status(answer),
            "role": "assistant",
            "content": [self._part(answer)],
        }
        return with_scores(message, answer, run)

    def _part(self, answer: Answer) -> dict[str, object]:
        return _part(answer.text, [] if self._plan.num_logprobs is None else chat_entries(answer.logprobs))

    def _response(self, status: str) -> dict[str, object]:
        body = self._body
        return {
            "id": self._id,
            "object": "response",
            "created_at": self._created,
            "status": status,
            "background": False,
            "error": None,
            "incomplete_details": None,
            "instructions": body.instructions,
            "max_output_tokens": body.max_output_tokens,
            "metadata": body.metadata or {},
            "model": body.model,
            "output": [],
            "parallel_tool_calls": True,
            "previous_response_id": None,
            "reasoning": {"effort": None, "summary": None},
            "store": False,
            "temperature": 1.0 if body.temperature is None else body.temperature,
            "text": {"format": {"type": "text"}},
            "tool_choice": "auto",
            "tools": [],
            "top_p": 1.0 if body.top_p is None else body.top_p,
            "truncation": "disabled",
            "usage": None,
            "user": body.user,
            "steer": self._plan.echo(),
        }


def _status(answer: Answer) -> str:
    return "incomplete" if answer.finish_reason == "length" else "completed"


def _part(text: str, logprobs: list[dict[str, object]]) -> dict[str, object]:
    return {"type": "output_text", "text": text, "annotations": [], "logprobs": logprobs}

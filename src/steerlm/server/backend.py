"""What draws the answers: the built-in engine (`local`), `vllm`, or another server (`upstream`); one interface.

Here is also what they have in common: the checked request they get, the answers that grow, and for those whose samples
something else draws (`upstream`, `vllm`) a task for each. Neither of these says which of its samples wait, so all count
as being drawn; and neither mixes logits.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Coroutine, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol, TypeVar

from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.generation.detokenizing import GrowingText, ResponseText, TokenTexts
from steerlm.generation.requests import Draw, LogProb, Request, Sampling
from steerlm.scorers.protocol import Scores
from steerlm.server.errors import ApiError, unusable_prompt
from steerlm.server.metrics import Metrics
from steerlm.server.steering import Dials, Setting
from steerlm.template.conversation_encoder import ConversationEncoder

FinishReason = Literal["stop", "length"]
T = TypeVar("T")
_SHORTEST_PAUSE_S = 0.015


class Alternative(NamedTuple):
    """A token that could stand at a position, by its text; `bytes`: None where they are not known."""

    token: str
    logprob: float
    bytes: bytes | None = None


class TokenLogProb(NamedTuple):
    """Natural logarithms of probabilities at one position.

    Attributes:
        token: text of the token that stands there.
        drawn: its own; None at the beginning of a text.
        top: of the likeliest tokens.
        bytes: the token's; None where they are not known.
    """

    token: str
    drawn: float | None
    top: Sequence[Alternative]
    bytes: bytes | None = None


@dataclass(frozen=True)
class Plan:
    """A checked request.

    Attributes:
        request: conversation, setting in force, how many samples are drawn to choose from (0: none), seed.
        stop: strings that end an answer.
        num_logprobs: likeliest tokens to report; None for no report.
        every_step: whether somebody wants to see the answers grow.
        setting: what is in force.
        dials: what the caller may set and see.
        num_answers: how many answers are wanted.
        weights: what best-of-n maximises; None = nearness to the request.
        return_scores: whether answers come with their scores.
        read: text or ids whose own log-probabilities are wanted.
        num_demonstrations: how many stand in front of the conversation; None: none were asked for.
    """

    request: Request
    sampling: Sampling
    stop: tuple[str, ...]
    num_logprobs: int | None
    every_step: bool
    setting: Setting
    dials: Dials
    num_answers: int = 1
    weights: dict[str, float] | None = None
    return_scores: bool = False
    read: str | Sequence[int] | None = None
    num_demonstrations: int | None = None

    @property
    def chooses(self) -> bool:
        """Whether answers can only be given once all samples are there."""
        return self.request.num_samples > self.num_answers

    @property
    def conversation(self) -> tuple[Message, ...]:
        """What was really said: the request's messages without demonstrations."""
        messages = self.request.messages
        first = 1 if messages[0].role == "system" else 0
        return (*messages[:first], *messages[first + 2 * (self.num_demonstrations or 0) :])

    def echo(self) -> dict[str, object]:
        """Return what the response says about steering."""
        shown = self.setting.shown
        more: dict[str, object] = {}
        if self.setting.proposed is not None:
            more["auto"] = list(self.setting.proposed)
        if self.num_demonstrations is not None:
            more["demonstrations"] = self.num_demonstrations
        return {
            "attributes": shown,
            "guidance": {name: strength for name, strength in self.setting.guidance.items() if name in shown},
            "preset": self.setting.preset,
            "warnings": self.setting.warnings,
            **more,
        }


@dataclass
class Answer:
    """One answer.

    Attributes:
        growing: its text so far.
        text: its whole text, at the end.
        finish_reason: why it ended; None while it grows.
        num_tokens: tokens drawn for it.
        logprobs: of its tokens that are text, if asked for.
        scores: of the attribute model, if wanted.
    """

    growing: GrowingText
    text: str = ""
    finish_reason: FinishReason | None = None
    num_tokens: int = 0
    logprobs: list[TokenLogProb] = field(default_factory=list)
    scores: Scores | None = None

    def shown(self) -> str:
        """Return the part of the text that is final."""
        return self.growing.shown() if self.finish_reason is None else self.text


class Generation(Protocol):
    """The answers to one request while they are drawn; `close` must follow."""

    @property
    def answers(self) -> Sequence[Answer]:
        """In order; they grow between two steps."""
        ...

    @property
    def prompt_tokens(self) -> int: ...

    def steps(self) -> AsyncGenerator[None]:
        """Yield whenever answers may have grown, until all are finished.

        Raises:
            ApiError: there will be no answer.
        """
        ...

    def close(self) -> None:
        """Give up what is not finished."""
        ...


class Backend(Protocol):
    """Whatever draws answers.

    Attributes:
        encoding: where that is done.
        context: most tokens of a prompt and its answer, as far as the checkpoint says.
    """

    encoder: ConversationEncoder
    encoding: Encoding
    context: int | None

    @property
    def cannot_mix(self) -> str:
        """What of it cannot mix logits, which guidance and values between two levels need; empty: it can."""
        ...

    @property
    def running(self) -> bool:
        """Whether it can draw at all."""
        ...

    @property
    def num_running(self) -> int:
        """Samples that are being drawn."""
        ...

    @property
    def num_waiting(self) -> int:
        """Samples that wait for a place."""
        ...

    async def start(self, plan: Plan) -> Generation:
        """Begin to draw.

        Raises:
            ApiError: a prompt that cannot be encoded or leaves no room, too many samples at the same time, or nobody
                there who could draw.
        """
        ...

    async def read(self, ids: Sequence[int], num_top: int) -> list[LogProb] | list[TokenLogProb]:
        """Return the log-probabilities of every token of a text but the first.

        Raises:
            ApiError: as `start`; or it cannot tell them.
        """
        ...

    async def close(self) -> None:
        """End everything."""
        ...


class Encoding:
    """One thread: encoding waits in line rather than hold up the event loop or take the processor from decoding."""

    def __init__(self) -> None:
        self._thread = ThreadPoolExecutor(1, "steerlm-encoding")

    async def __call__(self, encode: Callable[..., T], *arguments: object) -> T:
        """Return what `encode` makes of its arguments."""
        loop = asyncio.get_running_loop()
        try:
            return await loop.run_in_executor(self._thread, encode, *arguments)
        except UserError as error:
            raise unusable_prompt(error) from None

    def close(self) -> None:
        """End it; what waits is not encoded."""
        self._thread.shutdown(cancel_futures=True)


class Reader:
    """Turns a sample's tokens into an answer.

    Attributes:
        answer: what has been read of the sample.
    """

    def __init__(self, draw: Draw, encoder: ConversationEncoder, texts: TokenTexts, plan: Plan) -> None:
        """Read nothing yet."""
        self._draw, self._encoder, self._texts = draw, encoder, texts
        self._response = ResponseText(encoder, plan.stop, _before(draw, encoder) if plan.request.beginning else ())
        self._read = 0
        self.answer = Answer(self._response.text)

    def look(self) -> None:
        """Take in the tokens that are new."""
        draw, response, answer = self._draw, self._response, self.answer
        if answer.finish_reason is not None:
            return
        done, tokens = draw.done, draw.tokens
        if done and self._read == 0 and not response.has_stops:
            # nobody has looked before, and nothing can be found on the way
            self._read = response.num_tokens = len(tokens)
            first = 0
        else:
            first = self._read
            self._read += response.push_all(tokens[first:])
        answer.num_tokens = response.num_tokens
        if draw.num_logprobs is not None:
            pairs = zip(tokens[first : self._read], draw.logprobs[first : self._read], strict=True)
            answer.logprobs += [named(t, p, self._texts) for t, p in pairs if t not in self._encoder.control_ids]
        if response.stopped or done:
            answer.text = response.finish(tokens)
            answer.finish_reason = "stop" if response.stopped or draw.stopped else "length"


def _before(draw: Draw, encoder: ConversationEncoder) -> Sequence[int]:
    """Return the prompt's last text: what stands behind its last control token."""
    prompt = draw.lanes[0].prompt
    control = max((i for i, index in enumerate(prompt) if index in encoder.control_ids), default=-1)
    return prompt[control + 1 :]


def named(token: int, logprob: LogProb, texts: TokenTexts) -> TokenLogProb:
    """Return log-probabilities by the texts of the tokens."""
    text, raw = texts(token)
    top = []
    for other, value in logprob.top:
        name, its_bytes = texts(other)
        top.append(Alternative(name, value, its_bytes))
    return TokenLogProb(text, logprob.drawn, top, raw)


async def read_prompt(backend: Backend, prompt: str | Sequence[int], num_top: int) -> list[TokenLogProb]:
    """Return the log-probabilities of a text's tokens as a model without a template reads it; the first has none."""
    encoder = backend.encoder
    texts = TokenTexts(encoder)
    ids, num_given = await backend.encoding(_read_ids, encoder, prompt)
    found = await backend.read(ids, num_top) if len(ids) > 1 else []
    entries = []
    for token, logprob in zip(ids, [TokenLogProb("", None, []), *found], strict=True):
        if isinstance(logprob, TokenLogProb):  # what somebody else says of a token may lack its bytes
            text, raw = texts(token)
            entries.append(logprob._replace(token=text, bytes=raw))
        else:
            entries.append(named(token, logprob, texts))
    return entries[-num_given:]


def _read_ids(encoder: ConversationEncoder, prompt: str | Sequence[int]) -> tuple[list[int], int]:
    """Return the ids of a text, and how many of them are its own: a family's beginning of sequence is not."""
    start: tuple[int, ...]
    if not isinstance(prompt, str):
        unknown = next((index for index in prompt if not 0 <= index < encoder.num_tokens), None)
        if unknown is not None:
            message = f"{unknown} is no token of this model, whose tokens are 0 to {encoder.num_tokens - 1}"
            raise ApiError("invalid_value", message, "prompt")
        start, ids = (), list(prompt)
    else:
        try:
            prompt.encode()
        except UnicodeEncodeError as error:
            raise ApiError("invalid_value", f"the prompt is not valid Unicode: {error}", "prompt") from None
        start, ids = encoder.sequence_start, encoder.text_ids(prompt)
    if not ids:
        raise ApiError("invalid_value", "a prompt whose log-probabilities are asked for must not be empty", "prompt")
    return [*start, *ids], len(ids)


def check_room(room: int, length: int) -> None:
    """Raise unless a text fits into a context."""
    if room < 0:
        message = f"the prompt has {length} tokens, {-room} more than the model can read"
        raise ApiError("context_length_exceeded", message, "prompt")


class Places:
    """How many samples are drawn at the same time.

    Attributes:
        taken: samples that are being drawn.
    """

    def __init__(self, most: int, metrics: Metrics) -> None:
        self.taken = 0
        self._most, self._metrics = most, metrics

    def take(self, samples: int) -> None:
        """Count samples in; `free` must follow."""
        if self.taken and self.taken + samples > self._most:
            raise ApiError("queue_full", "the server is busy: too many samples at the same time; try again")
        self.taken += samples

    def free(self, samples: int, given_up: bool = False) -> None:
        """Count samples out; `given_up`: whether somebody did not want them any more."""
        self.taken -= samples
        if given_up:
            self._metrics.cancelled.inc()


Drawn = Callable[[Callable[[], None]], Coroutine[Any, Any, None]]
"""Draws one sample; is given what to call when its answer has grown."""


class TaskGeneration:
    """The samples of one request, each drawn by a task; see `Generation`."""

    def __init__(self, answers: Sequence[Answer], draws: Sequence[Drawn], prompt_tokens: int, places: Places) -> None:
        self.answers = answers
        self.prompt_tokens = prompt_tokens
        self._places = places
        self._event = asyncio.Event()
        self._failure: ApiError | None = None
        self._tasks = [asyncio.create_task(self._run(draw)) for draw in draws]

    async def _run(self, draw: Drawn) -> None:
        try:
            await draw(self._event.set)
        except ApiError as error:
            self._failure = error
        finally:
            self._event.set()

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait until something is true, which is looked at whenever an answer may have grown.

        Raises:
            ApiError: there will be no answer.
        """
        while not condition():
            await self._wait()
        self._event.set()

    async def _wait(self) -> None:
        await self._event.wait()
        self._event.clear()
        if self._failure is not None:
            raise self._failure
        for task in self._tasks:
            if task.done():
                task.result()  # a mistake of ours shall not look like a slow backend

    async def steps(self) -> AsyncGenerator[None]:
        while True:
            await self._wait()
            yield
            if all(answer.finish_reason for answer in self.answers):
                return
            await asyncio.sleep(_SHORTEST_PAUSE_S)

    def close(self) -> None:
        for task in self._tasks:
            task.cancel()
        finished = all(answer.finish_reason for answer in self.answers)
        self._places.free(len(self._tasks), not finished and self._failure is None)

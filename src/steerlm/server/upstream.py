"""Another OpenAI-compatible server, for example a stock vLLM, in place of the built-in engine.

    steerlm serve MODEL --upstream http://host:8000/v1

It serves the same checkpoint. The prompts are ours: token ids that no user's text can forge, sent to its
`/completions`; with `chat` (for servers that take no token ids) the messages and `chat_template_kwargs.attributes`,
after making sure that its tokenizer will read them as ours does. Every sample is a request of its own, streamed, so
that one that is finished or given up ends alone, whatever the server thinks of `n`. Guidance and levels between levels
mix logits, which no such server does: they are refused.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import httpx
from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase

from steerlm.attributes import Value
from steerlm.conversation import Message
from steerlm.generation.detokenizing import GrowingText
from steerlm.generation.guidance import branches
from steerlm.generation.prompting import Prompting
from steerlm.generation.sampling import sample_key
from steerlm.server.backend import (
    Answer,
    Encoding,
    FinishReason,
    Places,
    Plan,
    TaskGeneration,
    TokenLogProb,
    check_room,
)
from steerlm.server.errors import ApiError
from steerlm.server.metrics import Metrics
from steerlm.server.upstream_events import (
    Event,
    Served,
    ask_models,
    broken,
    read_echo,
    read_events,
    refusal,
    unreachable,
)
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import installed_template

_CONNECT_S = 10.0
_SEED_BITS = 31
"""Some servers keep seeds in 32 bits."""


@dataclass(frozen=True)
class Upstream:
    """Where the answers come from.

    Attributes:
        url: ends with `/v1` as a rule.
        model: the model's name there; None = the first one that it lists.
        key: API key; None = none.
        chat: use `/chat/completions`.
    """

    url: str
    model: str | None = None
    key: str | None = None
    chat: bool = False

    @property
    def path(self) -> str:
        return "chat/completions" if self.chat else "completions"


class _Prompt(NamedTuple):
    attributes: dict[str, Value]
    ids: list[int]


class UpstreamBackend:
    """A `Backend` on another server."""

    cannot_mix = "this server's upstream"
    num_waiting = 0  # where samples wait the upstream knows; here they all count as being drawn

    def __init__(
        self,
        upstream: Upstream,
        prompting: Prompting,
        most_samples: int,
        silence_s: float,
        metrics: Metrics,
    ) -> None:
        """Prepare; nothing is sent before the first request."""
        self.encoder = prompting.encoder
        self.running = True
        self._upstream, self._tokenizer, self.context = upstream, prompting.tokenizer, prompting.context
        self._places = Places(most_samples, metrics)
        self.encoding = Encoding()
        self._served: Served | None = None
        self._client = httpx.AsyncClient(
            base_url=upstream.url.rstrip("/") + "/",
            headers={} if upstream.key is None else {"Authorization": f"Bearer {upstream.key}"},
            timeout=httpx.Timeout(silence_s, connect=min(_CONNECT_S, silence_s)),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=64),
        )

    @property
    def num_running(self) -> int:
        return self._places.taken

    async def start(self, plan: Plan) -> TaskGeneration:
        prompt = await self.encoding(self.prompt, plan)
        num_samples = plan.request.num_samples
        self._places.take(num_samples)
        try:
            if self._served is None:
                self._served = await ask_models(self._client, self._upstream.model)
            bodies = self._bodies(plan, prompt, self._served)
        except BaseException:
            self._places.free(num_samples)
            raise
        ending = _Ending(self.encoder, self._tokenizer)
        samples = [_Sample(self._client, self._upstream.path, body, plan, ending) for body in bodies]
        answers, draws = [sample.answer for sample in samples], [sample.draw for sample in samples]
        generation = TaskGeneration(answers, draws, len(prompt.ids), self._places)
        try:
            # until all have begun to answer an error still has its status
            await generation.until(lambda: all(sample.opened for sample in samples))
        except BaseException:
            generation.close()
            raise
        return generation

    def prompt(self, plan: Plan) -> _Prompt:
        """Return the prompt: one, for no setting that mixes several passes the dials.

        Raises:
            ApiError: a chat server would read the prompt otherwise.
            UserError: as `ConversationEncoder.prompt`.
        """
        request = plan.request
        assert request.attributes is not None
        [(attributes, _)] = branches(self.encoder.schema, request.attributes, request.guidance or {})
        if not self._upstream.chat:
            ids = self.encoder.prompt(request.messages, attributes, beginning=request.beginning, any_roles=True)
            return _Prompt(attributes, ids)
        if request.beginning:
            message = "this server's upstream takes messages only and cannot go on with an answer"
            raise ApiError("unsupported_parameter", message, "continue_final_message")
        # a chat server does not hear which attributes earlier answers were written with
        messages = [Message(message.role, message.content) for message in request.messages]
        ids = self.encoder.prompt(messages, attributes, any_roles=True)
        self._check_chat(messages, attributes, ids)
        return _Prompt(attributes, ids)

    def _check_chat(self, messages: Sequence[Message], attributes: Mapping[str, Value], ids: Sequence[int]) -> None:
        """Make sure that text is text where somebody else tokenizes it."""
        try:
            text = self._tokenizer.apply_chat_template(
                _chat(messages), attributes=dict(attributes), add_generation_prompt=True, tokenize=False
            )
            theirs: Sequence[int] = self._tokenizer(text, add_special_tokens=False, verbose=False)["input_ids"]
        except TemplateError:  # an exported checkpoint's template refuses such text itself
            theirs = []
        control = self.encoder.control_ids
        if [i for i in theirs if i in control] != [i for i in ids if i in control]:
            message = "the messages spell a control token, which this server's upstream would take for one"
            raise ApiError("control_text", message, "messages")

    def _bodies(self, plan: Plan, prompt: _Prompt, served: Served) -> list[dict[str, object]]:
        """Return the requests, one per sample.

        Raises:
            ApiError: the prompt leaves no room in the context.
        """
        room = self._room(served, len(prompt.ids))
        if room < 1:
            context = room + len(prompt.ids)
            message = f"the prompt has {len(prompt.ids)} tokens and the model's context only {context}; shorten it"
            raise ApiError("context_length_exceeded", message, "messages")
        sampling = plan.sampling
        body: dict[str, object] = {
            "model": served.name,
            "max_tokens": min(sampling.max_new_tokens, room),
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "top_k": sampling.top_k or -1,  # said even so: vLLM's default may lie in the checkpoint
            "stream": True,
            "stream_options": {"include_usage": True},
            # whatever marks structure ends an answer; if a server does not know this, `_Ending` finds it in the text
            "stop_token_ids": sorted(self.encoder.control_ids),
            "skip_special_tokens": False,
        }
        if self._upstream.chat:
            body["messages"] = _chat(plan.request.messages)
            body["chat_template_kwargs"] = {**self.encoder.variables, "attributes": prompt.attributes}
            if plan.num_logprobs is not None:
                body |= {"logprobs": True, "top_logprobs": plan.num_logprobs}
        else:
            body["prompt"] = prompt.ids
            if plan.num_logprobs is not None:
                body["logprobs"] = plan.num_logprobs
        request = plan.request
        seeds = [sample_key(request.seed, i) & ((1 << _SEED_BITS) - 1) for i in range(request.num_samples)]
        return [{**body, "seed": seed} for seed in seeds]

    def _room(self, served: Served, length: int) -> int:
        """Return how many tokens the context leaves after a prompt of this length."""
        return min([limit for limit in (self.context, served.context) if limit is not None], default=1 << 31) - length

    async def read(self, ids: Sequence[int], num_top: int) -> list[TokenLogProb]:
        if self._upstream.chat:
            message = "this server's upstream takes messages only and does not tell the log-probabilities of a prompt"
            raise ApiError("unsupported_parameter", message, "echo")
        self._places.take(1)
        try:
            if self._served is None:
                self._served = await ask_models(self._client, self._upstream.model)
            check_room(self._room(self._served, len(ids)) - 1, len(ids))
            body = {"model": self._served.name, "prompt": list(ids), "max_tokens": 1, "temperature": 0}
            reply = await self._client.post("completions", json=body | {"echo": True, "logprobs": num_top})
        except httpx.HTTPError as error:
            raise unreachable(error) from None
        finally:
            self._places.free(1)
        return read_echo(reply, len(ids))

    async def close(self) -> None:
        self.running = False
        await self._client.aclose()
        self.encoding.close()


def _chat(messages: Sequence[Message]) -> list[dict[str, str]]:
    return [{"role": message.role, "content": message.content} for message in messages]


class _Ending:
    """How an answer that comes as text ends."""

    def __init__(self, encoder: ConversationEncoder, tokenizer: PreTrainedTokenizerBase) -> None:
        self._encoder, self._tokenizer = encoder, tokenizer
        self._control = frozenset(tokenizer.convert_ids_to_tokens(sorted(encoder.control_ids)))

    def answer(self, stop: Sequence[str]) -> Answer:
        """Return an answer without text yet; the spelling of a control token of the template ends it, too."""
        return Answer(GrowingText(self._encoder.schema, (*stop, *installed_template(self._tokenizer).tokens)))

    def take(self, answer: Answer, event: Event, num_logprobs: int | None) -> None:
        """Add what an event brings."""
        if event.text:
            answer.growing.extend(event.text)
        if num_logprobs is not None:
            for entry in event.logprobs:
                if entry.token not in self._control:
                    shown = [top._replace(token="") if top.token in self._control else top for top in entry.top]
                    answer.logprobs.append(entry._replace(top=shown[:num_logprobs]))

    def finish(self, answer: Answer, reason: FinishReason, num_tokens: int | None) -> None:
        """Conclude an answer; tokens that nobody counted are counted again."""
        text = answer.growing.whole()
        if self._encoder.template == "nemo" and reason == "stop":
            text = text.removesuffix("\n")
        if num_tokens is None:
            num_tokens = len(self._tokenizer(answer.growing.body, add_special_tokens=False)["input_ids"])
        answer.text, answer.num_tokens = text, num_tokens
        answer.finish_reason = reason


class _Sample:
    """One sample, drawn by an upstream.

    Attributes:
        answer: what it becomes.
        opened: whether the upstream has begun to answer.
    """

    def __init__(
        self, client: httpx.AsyncClient, path: str, body: dict[str, object], plan: Plan, ending: _Ending
    ) -> None:
        """Send nothing yet."""
        self.answer = ending.answer(plan.stop)
        self.opened = False
        self._client, self._path, self._body, self._ending = client, path, body, ending
        self._num_logprobs = plan.num_logprobs

    async def draw(self, grown: Callable[[], None]) -> None:
        try:
            async with self._client.stream("POST", self._path, json=self._body) as reply:
                if reply.status_code != 200:
                    raise await refusal(reply)
                self.opened = True
                grown()
                await self._read(reply, grown)
        except httpx.HTTPError as error:
            raise unreachable(error) from None

    async def _read(self, reply: httpx.Response, grown: Callable[[], None]) -> None:
        answer = self.answer
        reason: FinishReason | None = None
        num_tokens: int | None = None
        async with contextlib.aclosing(read_events(reply)) as events:
            async for event in events:
                self._ending.take(answer, event, self._num_logprobs)
                if answer.growing.stopped:
                    # leaving closes the connection, and with it the upstream's work
                    self._ending.finish(answer, "stop", None)
                    return
                grown()
                reason = event.finish_reason or reason
                num_tokens = num_tokens if event.num_tokens is None else event.num_tokens
        if reason is None:
            raise broken("its stream ended before the answer did")
        self._ending.finish(answer, reason, num_tokens)

"""From a request to its answers: check it, decode, cut at stop strings, choose the best of n, say what was in force."""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncGenerator, Sequence
from dataclasses import dataclass, field, replace

from steerlm.attributes import AttributeSchema
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.generation.demonstrations import Demonstration, with_demonstrations
from steerlm.generation.detokenizing import GrowingText
from steerlm.generation.requests import Request, Sampling
from steerlm.scorers.protocol import Scores
from steerlm.server.backend import Answer, Generation, Plan, TokenLogProb, read_prompt
from steerlm.server.errors import ApiError, unusable_prompt
from steerlm.server.protocol import ChatMessage, ChatRequest, CompletionRequest, Steer
from steerlm.server.service import Service, random_seed
from steerlm.server.steering import (
    Dials,
    Setting,
    Wishes,
    check_history,
    check_weights,
    parse_model,
    resolve,
    verbosity_level,
)
from steerlm.template.conversation_encoder import ConversationEncoder

_LEAST_ROOM = 256
"""Tokens an answer should have room for beside demonstrations."""


def plan_chat(body: ChatRequest, service: Service, caller: str | None) -> Plan:
    """Check a chat request.

    Raises:
        ApiError: whatever is wrong with it.
    """
    dials = service.dials(caller)
    wishes = _wishes(body, service, dials)
    if body.verbosity is not None:
        wishes.named.append(("verbosity", verbosity_level(body.verbosity, dials)))
    if body.max_tokens is not None and body.max_completion_tokens not in (None, body.max_tokens):
        raise ApiError("invalid_value", "max_tokens and max_completion_tokens differ; give one", "max_tokens")
    if body.max_tokens == 0:
        raise ApiError("invalid_value", "max_tokens must be at least 1", "max_tokens")
    if body.top_logprobs and not body.logprobs:
        raise ApiError("invalid_value", "top_logprobs needs logprobs: true", "top_logprobs")
    if body.add_generation_prompt is not None and body.add_generation_prompt == bool(body.continue_final_message):
        message = "add_generation_prompt is true, but false with continue_final_message; leave it out"
        raise ApiError("invalid_value", message, "add_generation_prompt")
    num_logprobs = (body.top_logprobs or 0) if body.logprobs else None
    messages = messages_of(body.messages, dials, wishes.clamped)
    beginning = ""
    if body.continue_final_message:
        last, messages = messages[-1], messages[:-1]
        if last.role != "assistant" or last.attributes is not None:
            message = "continue_final_message needs an assistant's message at the end, without attributes of its own"
            raise ApiError("invalid_messages", message, "messages")
        beginning = last.content
    wanted = body.max_completion_tokens or body.max_tokens
    return _plan(body, service, dials, wishes, messages, wanted, num_logprobs, beginning)


def plan_completion(body: CompletionRequest, prompt: str | Sequence[int], service: Service, caller: str | None) -> Plan:
    """Check a completion request, for one of its prompts."""
    dials = service.dials(caller)
    reads = body.echo and body.logprobs is not None
    if reads and dials.locks:
        message = "echo with logprobs tells how likely the prompt's text is without attributes, where no lock holds"
        raise ApiError("attribute_locked", f"{message}; leave one of them out", "echo")
    text = prompt if isinstance(prompt, str) else prompt_text(prompt, service.backend.encoder)
    messages = (Message("user", text),)
    wanted = 16 if body.max_tokens is None else body.max_tokens  # OpenAI's default for completions
    plan = _plan(body, service, dials, _wishes(body, service, dials), messages, wanted, body.logprobs)
    return replace(plan, read=prompt) if reads else plan


def prompt_text(ids: Sequence[int], encoder: ConversationEncoder) -> str:
    """Return the text of a prompt that came as ids."""
    own = ids[len(encoder.sequence_start) :] if tuple(ids[:1]) == encoder.sequence_start else ids
    for index in own:
        if not 0 <= index < encoder.num_tokens or index in encoder.control_ids:
            what = "a control token" if index in encoder.control_ids else "no token of this model"
            raise ApiError("invalid_value", f"{index} is {what}; a prompt holds text only", "prompt")
    return encoder.decode(own)


def messages_of(messages: Sequence[ChatMessage], dials: Dials, clamped: set[str]) -> tuple[Message, ...]:
    """Return a conversation's messages; `clamped` as of `Dials.check`."""
    most = dials.policy.limits.max_messages
    if len(messages) > most:
        raise ApiError("too_many_messages", f"{len(messages)} messages, at most {most} are allowed", "messages")
    roles = {"developer": "system"}
    return check_history([(roles.get(m.role, m.role), m.text, m.attributes) for m in messages], dials, clamped)


def _wishes(body: ChatRequest | CompletionRequest, service: Service, dials: Dials) -> Wishes:
    preset, named = parse_model(body.model, service.names, dials)
    wishes = Wishes(preset=preset)
    if named:
        wishes.named.append(("model", named))
    if body.chat_template_kwargs is not None and body.chat_template_kwargs.attributes is not None:
        wishes.named.append(("chat_template_kwargs.attributes", body.chat_template_kwargs.attributes))
        wishes.exact = True
    steer = body.steer
    if steer is not None:
        if steer.attributes is not None:
            wishes.named.append(("steer.attributes", steer.attributes))
        if steer.preset is not None and preset not in (None, steer.preset):
            raise dials.malformed("two presets in one request", "steer.preset")
        wishes.preset = steer.preset or preset
        wishes.guidance, wishes.strict = steer.guidance, steer.strict
    return wishes


def _shown(
    messages: tuple[Message, ...], setting: Setting, steer: Steer, service: Service, dials: Dials, needed: int
) -> tuple[tuple[Message, ...], int | None]:
    """Return the conversation behind the demonstrations that were asked for, and how many these are.

    None is shown whose attributes a lock forbids.
    """
    if not steer.demonstrations:
        return messages, None
    if service.demonstrations is None:
        message = "demonstrations need training answers; start the server with --examples annotate/train.jsonl"
        raise ApiError("invalid_value", message, "steer.demonstrations")
    most = dials.policy.limits.max_demonstrations
    if steer.demonstrations > most:
        message = f"{steer.demonstrations} demonstrations are too many, at most {most} here"
        raise ApiError("invalid_value", message, "steer.demonstrations")
    backend, attributes = service.backend, setting.attributes
    context = backend.context or 1 << 31
    levels = {n: v if isinstance(v, str) else dials.schema[n].round(v) for n, v in attributes.items()}

    def allowed(example: Demonstration) -> bool:
        labels = example.answer.attributes or {}
        return all(
            lock.allows(dials.schema[name], labels[name]) for name, lock in dials.locks.items() if name in labels
        )

    def room(conversation: tuple[Message, ...]) -> int:
        return context - len(backend.encoder.prompt(conversation, levels, any_roles=True))

    return with_demonstrations(
        service.demonstrations, messages, attributes, steer.demonstrations, room, min(needed, _LEAST_ROOM), allowed
    )


def _plan(
    body: ChatRequest | CompletionRequest,
    service: Service,
    dials: Dials,
    wishes: Wishes,
    messages: tuple[Message, ...],
    max_tokens: int | None,
    num_logprobs: int | None,
    beginning: str = "",
) -> Plan:
    limits = service.policy.limits
    steer = body.steer or Steer()
    stop = tuple(body.stops)
    if len(stop) > limits.max_stop or not all(0 < len(text) <= 256 for text in stop):
        message = f"stop takes up to {limits.max_stop} strings of 1 to 256 characters"
        raise ApiError("invalid_value", message, "stop")
    if not service.backend.encoder.control_ids.issuperset(body.stop_token_ids or ()):
        message = "stop_token_ids takes control tokens only, which end every answer anyway; give texts as stop"
        raise ApiError("invalid_value", message, "stop_token_ids")
    num_answers = body.n or 1
    num_samples = steer.best_of or num_answers
    if max(num_answers, num_samples) > limits.max_samples:
        raise ApiError("too_many_samples", f"n and best_of are at most {limits.max_samples} here", "n")
    if num_samples < num_answers:
        raise ApiError("invalid_value", f"best_of {num_samples} is less than n {num_answers}", "steer.best_of")
    if max_tokens is not None and max_tokens > limits.max_new_tokens:
        message = f"{max_tokens} tokens are too many, at most {limits.max_new_tokens} can be asked for"
        newer = isinstance(body, ChatRequest) and body.max_completion_tokens is not None
        raise ApiError("too_many_tokens", message, "max_completion_tokens" if newer else "max_tokens")
    wants_scores = steer.return_scores or steer.best_of is not None or steer.weights is not None
    if wants_scores and service.attribute_model is None:
        message = "scores and best_of need an attribute model; start the server with --attribute-model"
        raise ApiError("no_attribute_model", message, "steer")
    weights = None if steer.weights is None else _weights(steer, num_answers, service, dials)
    if steer.auto:
        if service.proposer is None:
            message = "auto needs training answers; start the server with --examples annotate/train.jsonl"
            raise ApiError("invalid_value", message, "steer.auto")
        wishes.proposed = service.proposer.propose(messages)
    setting = resolve(wishes, dials, service.trained)
    if any(warning["code"] == "far_from_training" for warning in setting.warnings):
        service.metrics.far.inc()
    length = min(limits.default_new_tokens, limits.max_new_tokens) if max_tokens is None else max_tokens
    seed = random_seed() if body.seed is None else body.seed
    try:
        messages, shown = _shown(messages, setting, steer, service, dials, max(1, length))
    except UserError as error:
        raise unusable_prompt(error) from None
    return Plan(
        Request(messages, setting.attributes, num_samples if length else 0, seed, setting.guidance, beginning),
        _sampling(body, max(1, length)), stop, num_logprobs, bool(body.stream) and num_samples == num_answers,
        setting, dials, num_answers, weights, wants_scores, num_demonstrations=shown,
    )  # fmt: skip


def _weights(steer: Steer, num_answers: int, service: Service, dials: Dials) -> dict[str, float]:
    """Return what best-of-n maximises."""
    weights = check_weights(steer.weights, dials)
    if (steer.best_of or 0) <= num_answers:
        given = "is missing" if steer.best_of is None else f"is {steer.best_of}"
        message = f"weights choose among samples, but steer.best_of {given}; set it to more than n ({num_answers})"
        raise ApiError("invalid_value", message, "steer.weights")
    if lacking := [name for name in weights if name not in scored_attributes(service, dials)]:
        raise dials.malformed(f"the attribute model does not score {', '.join(lacking)}", "steer.weights")
    return weights


def _sampling(body: ChatRequest | CompletionRequest, max_new_tokens: int) -> Sampling:
    temperature = 1.0 if body.temperature is None else float(body.temperature)
    top_k = 0 if body.top_k is None else max(body.top_k, 0)
    top_p = 1.0 if body.top_p is None else float(body.top_p)
    try:
        return Sampling(max_new_tokens, temperature, top_k, top_p)
    except UserError as error:
        raise ApiError("invalid_value", str(error)) from None


@dataclass
class Run:
    """A request being answered.

    Attributes:
        answers: the samples; after `finished`, the answers to give, best first.
        prompt: the log-probabilities of the prompt's own text, if asked for.
        prompt_tokens: tokens of the prompt.
        sampled_tokens: tokens drawn, also for samples that were not chosen.
    """

    plan: Plan
    service: Service
    answers: list[Answer] = field(default_factory=list)
    prompt: list[TokenLogProb] | None = None
    prompt_tokens: int = 0
    sampled_tokens: int = 0
    started: float = field(default_factory=time.monotonic)
    _generation: Generation | None = None

    async def submit(self) -> None:
        """Start drawing; `close` must follow, whatever happens.

        Raises:
            ApiError: see `Backend.start`; or the time is up.
        """
        plan, backend = self.plan, self.service.backend
        async with self._in_time():
            if plan.read is not None:
                self.prompt = await read_prompt(backend, plan.read, plan.num_logprobs or 0)
                self.prompt_tokens = len(self.prompt)
            if plan.request.num_samples:
                self._generation = await backend.start(plan)
        if self._generation is not None:
            self.answers = list(self._generation.answers)
            self.prompt_tokens = self._generation.prompt_tokens
        else:
            nothing = GrowingText(plan.dials.schema, ())
            self.answers = [Answer(nothing, finish_reason="length") for _ in range(plan.num_answers)]

    def close(self) -> None:
        """Free the places of samples that are still being drawn."""
        if self._generation is not None:
            self._generation.close()

    @contextlib.asynccontextmanager
    async def _in_time(self) -> AsyncGenerator[None]:
        seconds = self.service.policy.limits.request_timeout_s
        left = self.started + seconds - time.monotonic()
        try:
            async with asyncio.timeout(left):
                yield
        except TimeoutError:
            raise ApiError("request_timeout", f"the answer took longer than {seconds:g} s") from None

    async def updates(self) -> AsyncGenerator[bool]:
        """Draw; yield whenever answers may have grown, with whether all are finished.

        Raises:
            ApiError: there will be no answer, or the time is up.
        """
        finished = self._generation is None
        async with contextlib.aclosing(self._steps()) as steps:
            while not finished:
                async with self._in_time():
                    await anext(steps)
                finished = all(answer.finish_reason for answer in self.answers)
                if not finished:
                    yield False
        self.sampled_tokens = sum(answer.num_tokens for answer in self.answers)
        self.service.metrics.prompt_tokens.inc(self.prompt_tokens)
        self.service.metrics.completion_tokens.inc(self.sampled_tokens)
        if self.plan.return_scores:
            await self._score()
        yield True

    async def news(self) -> AsyncGenerator[None]:
        """Yield whenever there is something to show: while the answers grow, or once they are chosen."""
        shown = False
        async with contextlib.aclosing(self.updates()) as updates:
            async for finished in updates:
                if self.plan.chooses and not finished:
                    continue
                if not shown and any(answer.shown() for answer in self.answers):
                    shown = True
                    self.service.metrics.first_token_seconds.observe(time.monotonic() - self.started)
                yield

    async def _steps(self) -> AsyncGenerator[None]:
        if self._generation is not None:
            async with contextlib.aclosing(self._generation.steps()) as steps:
                async for _ in steps:
                    yield

    async def _score(self) -> None:
        plan = self.plan
        request = plan.request
        scored = await self.service.score(
            [(*plan.conversation, Message("assistant", request.beginning + answer.text)) for answer in self.answers]
        )
        for answer, scores in zip(self.answers, scored.scores, strict=True):
            answer.scores = scores
        if plan.chooses:
            model = self.service.attribute_model
            assert model is not None
            # what cannot be scored (longer than the attribute model's context) comes last
            self.answers.sort(key=lambda answer: badness(answer.scores, plan, model.schema))
            del self.answers[plan.num_answers :]

    def usage(self) -> dict[str, int]:
        """Return OpenAI's usage; samples that were not chosen count as well."""
        return {
            "prompt_tokens": self.prompt_tokens,
            "completion_tokens": self.sampled_tokens,
            "total_tokens": self.prompt_tokens + self.sampled_tokens,
        }

    def scores_json(self, answer: Answer) -> dict[str, object] | None:
        """Return an answer's scores of the attributes that the caller may know of."""
        model = self.service.attribute_model
        if answer.scores is None or model is None:
            return None
        return shown_scores(answer.scores, model.schema, self.plan.dials)


def scored_attributes(service: Service, dials: Dials) -> list[str]:
    """Return the names that the attribute model scores, as far as the caller may know of them."""
    model = service.attribute_model
    return [] if model is None else [name for name in model.schema.names if is_shown(name, dials)]


def is_shown(name: str, dials: Dials) -> bool:
    """Whether a caller may see a score: hidden attributes have none."""
    lock = dials.locks.get(name)
    return lock is None or not lock.hidden


def shown_scores(scores: Scores, schema: AttributeSchema, dials: Dials) -> dict[str, object]:
    """Return scores as JSON, without hidden attributes; a category has probabilities and no mean."""
    return {
        name: {"probabilities": score.probabilities} if schema[name].kind == "categorical" else score.to_dict()
        for name, score in scores.items()
        if is_shown(name, dials)
    }


def badness(scores: Scores | None, plan: Plan, schema: AttributeSchema) -> float:
    """Return how far an answer is from what was asked for; lower is better.

    By weights: minus the weighted sum of scores on a scale of 0 to 1. Else the squared differences from the setting in
    force on that scale, summed over its attributes; of a category, the probability that it is another one.
    """
    if scores is None:
        return float("inf")
    if plan.weights is not None:
        weighted = ((name, weight) for name, weight in plan.weights.items() if name in scores)
        return -sum(weight * schema[name].to_unit(scores[name].mean) for name, weight in weighted)
    total = 0.0
    for name, wish in plan.setting.attributes.items():
        if name not in schema or name not in scores:  # a measure that this answer does not define
            continue
        attribute, score = schema[name], scores[name]
        if attribute.kind == "categorical":
            total += 1.0 - (score.probabilities or {}).get(str(wish), 0.0)
        else:
            total += (attribute.to_unit(score.mean) - attribute.to_unit(float(wish))) ** 2
    return total

"""Let systems answer prompts: in this process or at an endpoint, chunk by chunk, resumed behind the last chunk."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.attributes import Value
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.storage.claims import claim_file, digest_of
from steerlm.storage.files import write_rows
from steerlm.storage.resumable import map_lines, read_rows
from steerlm.studies.compare.systems import ComparedPrompt, System, SystemAnswer, require_template, stored_answers

if TYPE_CHECKING:
    from steerlm.checkpoint.models import Precision
    from steerlm.generation.requests import Sample
    from steerlm.scorers.llm.cache import Reply

_CHUNK = 64
_IN_FLIGHT = 16
"""Requests at once; also the most that is paid for twice after an interruption."""


@dataclass(frozen=True)
class AnswerSampling:
    """How answers are sampled; an endpoint is told the first two only."""

    max_new_tokens: int = 512
    temperature: float = 0.7
    top_k: int = 50
    batch_size: int = 64
    precision: Precision = "auto"


Work = Callable[[list[ComparedPrompt]], list[SystemAnswer]]


def answer_prompts(
    system: System, prompts: Sequence[ComparedPrompt], generation: AnswerSampling, out: Path
) -> list[SystemAnswer]:
    """Return a system's answers to all prompts.

    Args:
        out: receives `answers/<name>.jsonl` (conversations that end with the answer) and, for generated answers,
            `generated/<name>.jsonl`, behind whose last whole chunk a later call goes on; of an endpoint it keeps every
            reply beside it.
    """
    if system.kind == "stored":
        answers = stored_answers(system, prompts)
    else:
        answers = _generated(system, prompts, generation, out / "generated" / f"{system.name}.jsonl")
    path = out / "answers" / f"{system.name}.jsonl"
    # stored answers that already lie there may be more than this comparison uses
    if system.kind != "stored" or Path(system.where).resolve() != path.resolve():
        _write_answers(path, system, prompts, answers)
    return answers


def _generated(
    system: System, prompts: Sequence[ComparedPrompt], generation: AnswerSampling, path: Path
) -> list[SystemAnswer]:
    claim_file(path, _key(system, prompts, generation))
    work: Work | None = None

    def rows(chunk: list[ComparedPrompt]) -> list[dict[str, object]]:
        nonlocal work
        work = work or _worker(system, generation, path.with_suffix(".replies.jsonl"))
        return [{"id": p.id, **asdict(answer)} for p, answer in zip(chunk, work(chunk), strict=True)]

    map_lines(path, prompts, rows, chunk=_CHUNK, description=f"answers of {system.name}")
    return [SystemAnswer(row["text"], row["num_tokens"], row["finished"], row["problem"]) for row in read_rows(path)]


def _key(system: System, prompts: Sequence[ComparedPrompt], generation: AnswerSampling) -> str:
    """What the answers depend on; the batch size can only change a last bit."""
    content = f"{system.where}#{system.model}"
    if Path(system.where).is_dir():
        from steerlm.checkpoint.models import fingerprint

        content = fingerprint(system.where)
    asked: list[object] = [
        [p.id, p.seed, [(m.role, m.content, dict(m.attributes or {})) for m in p.messages]] for p in prompts
    ]
    sampling = {**asdict(generation), "batch_size": None}
    if any(p.setting is not None for p in prompts):
        asked.append([dict(_setting(system, p) or {}) for p in prompts])
    if system.strengths:
        asked.append(dict(system.strengths))
    parts = [system.kind, content, dict(system.setting or {}), sampling, asked]
    return digest_of(*parts)


def _setting(system: System, prompt: ComparedPrompt) -> Mapping[str, Value] | None:
    return system.setting if prompt.setting is None else prompt.setting


def _write_answers(
    path: Path, system: System, prompts: Sequence[ComparedPrompt], answers: Sequence[SystemAnswer]
) -> None:
    rows = []
    for prompt, answer in zip(prompts, answers, strict=True):
        if not answer.text or not answer.text.strip():
            continue  # a conversation holds no empty turn
        setting = _setting(system, prompt)
        said = Message("assistant", answer.text, dict(setting) if setting else None)
        messages = [message.to_dict() for message in (*prompt.messages, said)]
        rows.append({"id": prompt.id, "source": system.name, "messages": messages})
    write_rows(path, rows)


def _worker(system: System, generation: AnswerSampling, replies: Path) -> Work:
    if system.kind == "steerable":
        return _steerable(system, generation)
    return _plain(system, generation) if system.kind == "plain" else _endpoint(system, generation, replies)


def _steerable(system: System, generation: AnswerSampling) -> Work:
    from steerlm.generation.engine import Request, Sampling, load_engine
    from steerlm.generation.guidance import turned_strengths
    from steerlm.generation.requests import generate_fitting

    engine = load_engine(system.where, generation.precision, generation.batch_size)
    sampling = Sampling(generation.max_new_tokens, generation.temperature, generation.top_k)

    def request(prompt: ComparedPrompt) -> Request:
        setting = _setting(system, prompt)
        counted = turned_strengths(engine.schema, setting or {}, system.strengths)
        return Request(prompt.messages, setting, seed=prompt.seed, guidance=counted or None)

    def work(prompts: list[ComparedPrompt]) -> list[SystemAnswer]:
        found = generate_fitting(engine, list(map(request, prompts)), sampling)
        return [_said(samples[0] if samples else None) for samples in found]

    return work


def _plain(system: System, generation: AnswerSampling) -> Work:
    """Any Hugging Face chat model, prompted by its own template."""
    from steerlm.generation.plain import PlainModel
    from steerlm.generation.requests import Sampling

    model = PlainModel(system.where, generation.precision, generation.batch_size)
    require_template(system.name, system.where, model.has_template)
    sampling = Sampling(generation.max_new_tokens, generation.temperature, generation.top_k)

    def work(prompts: list[ComparedPrompt]) -> list[SystemAnswer]:
        return list(map(_said, model.answers([p.messages for p in prompts], [p.seed for p in prompts], sampling)))

    return work


def _said(sample: Sample | None) -> SystemAnswer:
    if sample is None:
        return SystemAnswer(None, problem="the prompt is longer than the model's context")
    return SystemAnswer(sample.text, sample.num_tokens, sample.finished)


def _endpoint(system: System, generation: AnswerSampling, replies: Path) -> Work:
    """An OpenAI-compatible endpoint; a setting goes to the chat template, which is how a served checkpoint steers."""
    from steerlm.scorers.llm.client import NO_KEY, Endpoint, ask_endpoint

    endpoint = Endpoint(system.where, system.model, os.environ.get("OPENAI_API_KEY") or NO_KEY)
    asked = {"model": system.model, "max_tokens": generation.max_new_tokens, "temperature": generation.temperature}

    def body(prompt: ComparedPrompt) -> dict[str, object]:
        setting = _setting(system, prompt)
        steer = {"chat_template_kwargs": {"attributes": dict(setting)}} if setting else {}
        return {**asked, **steer, "messages": [{"role": m.role, "content": m.content} for m in prompt.messages]}

    def work(prompts: list[ComparedPrompt]) -> list[SystemAnswer]:
        bodies = [body(prompt) for prompt in prompts]
        try:
            answers = [_answer(r) for r in ask_endpoint(endpoint, bodies, replies, max_in_flight=_IN_FLIGHT, doing="")]
        except UserError as error:
            raise UserError(f"system {system.name!r}: its endpoint gave out: {error}") from None
        if all(answer.text is None for answer in answers):
            raise UserError(f"system {system.name!r}: {system.shown} answered nothing: {answers[0].problem}")
        return answers

    return work


def _answer(reply: Reply) -> SystemAnswer:
    """Take a reply as an answer."""
    if reply.refused:
        return SystemAnswer(None, problem=f"refused by the endpoint with {reply.failure}")
    if reply.failure:
        raise UserError(f"{reply.failure}; the other replies are kept, the same command goes on")
    if not reply.text and reply.finish_reason != "stop":
        return SystemAnswer(None, problem=f"the endpoint's reply holds no text (finish reason {reply.finish_reason})")
    return SystemAnswer(reply.text, reply.completion_tokens, reply.finish_reason != "length")

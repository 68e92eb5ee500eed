"""Let systems answer prompts: in this process or at an endpoint, chunk by chunk, resumed behind the last chunk."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.storage.claims import claim, digest_of
from steerlm.storage.files import atomic_writer
from steerlm.storage.resumable import map_lines, read_rows
from steerlm.studies.compare.systems import Answer, Prompt, System, stored_answers

if TYPE_CHECKING:
    from openai import AsyncOpenAI

    from steerlm.checkpoint.models import Precision

_CHUNK = 64
_IN_FLIGHT = 16
"""Requests at once; also the most that is paid for twice after an interruption."""
_RETRIES = 6
_MALFORMED = 4
"""Replies that are no chat completion, before a prompt is given up."""
_PAUSE_S = 0.5
_TIMEOUT_S = 180.0
_REFUSED_STATUS = (400, 403, 413, 422)
"""The endpoint will not answer this prompt (too long, filtered); others it may."""


@dataclass(frozen=True)
class Generation:
    """How answers are sampled; an endpoint is told the first two only.

    Attributes:
        max_new_tokens: longest answer.
        temperature: 0 = greedy.
        top_k: draw from the k likeliest tokens; 0 = all.
        batch_size: answers decoded together.
        precision: of the weights.
    """

    max_new_tokens: int = 512
    temperature: float = 0.7
    top_k: int = 50
    batch_size: int = 64
    precision: Precision = "auto"


Work = Callable[[list[Prompt]], list[Answer]]


def answer_prompts(system: System, prompts: Sequence[Prompt], generation: Generation, out: Path) -> list[Answer]:
    """Return a system's answers to all prompts.

    Args:
        system: stored answers are looked up, the others generated.
        prompts: what to answer.
        generation: how.
        out: receives `answers/<name>.jsonl` (conversations that end with the answer) and, for generated answers,
            `generated/<name>.jsonl`, behind whose last whole chunk a later call goes on.

    Raises:
        UserError: a model that cannot be loaded, an endpoint that gives out, a full disk.
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


def _generated(system: System, prompts: Sequence[Prompt], generation: Generation, path: Path) -> list[Answer]:
    inputs = {path.name: _key(system, prompts, generation)}
    claim(path.with_suffix(".inputs.json"), inputs, otherwise="replace", outputs={path.name: path})
    work: Work | None = None

    def rows(chunk: list[Prompt]) -> list[dict[str, Any]]:
        nonlocal work
        work = work or _worker(system, generation)
        return [{"id": p.id, **asdict(answer)} for p, answer in zip(chunk, work(chunk), strict=True)]

    chunk = _IN_FLIGHT if system.kind == "endpoint" else _CHUNK
    map_lines(path, prompts, rows, chunk=chunk, total=len(prompts), description=f"answers of {system.name}")
    return [Answer(row["text"], row["num_tokens"], row["finished"], row["problem"]) for row in read_rows(path)]


def _key(system: System, prompts: Sequence[Prompt], generation: Generation) -> str:
    """What the answers depend on; the batch size can only change a last bit."""
    content = f"{system.where}#{system.model}"
    if Path(system.where).is_dir():
        from steerlm.checkpoint.models import fingerprint

        content = fingerprint(system.where)
    asked = [[p.id, p.seed, [(m.role, m.content, dict(m.attributes or {})) for m in p.messages]] for p in prompts]
    sampling = {**asdict(generation), "batch_size": None}
    parts = [system.kind, content, dict(system.setting or {}), sampling, asked]
    return digest_of(*parts)


def _write_answers(path: Path, system: System, prompts: Sequence[Prompt], answers: Sequence[Answer]) -> None:
    with atomic_writer(path) as stream:
        for prompt, answer in zip(prompts, answers, strict=True):
            if not answer.text or not answer.text.strip():
                continue  # a conversation holds no empty turn
            said = Message("assistant", answer.text, dict(system.setting) if system.setting else None)
            messages = [message.to_dict() for message in (*prompt.messages, said)]
            stream.write(orjson.dumps({"id": prompt.id, "source": system.name, "messages": messages}) + b"\n")


def _worker(system: System, generation: Generation) -> Work:
    if system.kind == "steerable":
        return _steerable(system, generation)
    return _plain(system, generation) if system.kind == "plain" else _endpoint(system, generation)


def _steerable(system: System, generation: Generation) -> Work:
    from steerlm.generation.engine import Request, Sampling, load_engine

    engine = load_engine(system.where, generation.precision, generation.batch_size)
    sampling = Sampling(generation.max_new_tokens, generation.temperature, generation.top_k)

    def work(prompts: list[Prompt]) -> list[Answer]:
        requests = [Request(prompt.messages, system.setting, seed=prompt.seed) for prompt in prompts]
        fitting = [i for i, request in enumerate(requests) if engine.room(request) > 0]
        samples = dict(zip(fitting, engine.generate([requests[i] for i in fitting], sampling), strict=True))
        return [
            Answer(samples[i][0].text, samples[i][0].num_tokens, samples[i][0].finished)
            if i in samples
            else Answer(None, problem="the prompt is longer than the model's context")
            for i in range(len(prompts))
        ]

    return work


def _plain(system: System, generation: Generation) -> Work:
    """Any Hugging Face chat model, prompted by its own template and sampled by transformers."""
    import torch

    from steerlm.checkpoint.models import default_device, load_causal_lm, load_tokenizer

    tokenizer = load_tokenizer(system.where)
    if tokenizer.chat_template is None:
        raise UserError(f"system {system.name!r}: {system.where} has no chat template, so it cannot be asked anything")
    model = load_causal_lm(system.where, generation.precision).to(default_device()).eval()
    tokenizer.padding_side = "left"
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.eos_token
    context = getattr(model.config.get_text_config(), "max_position_embeddings", None) or 1 << 31
    greedy: dict[str, Any] = {"do_sample": False, "temperature": None, "top_k": None, "top_p": None}
    drawn: dict[str, Any] = {
        "do_sample": True,
        "temperature": generation.temperature,
        "top_k": generation.top_k,
        "top_p": 1.0,
    }

    def work(prompts: list[Prompt]) -> list[Answer]:
        ids = [
            tokenizer.apply_chat_template(
                [m.to_dict() for m in p.messages], add_generation_prompt=True, return_dict=False
            )
            for p in prompts
        ]
        answers = [Answer(None, problem="the prompt is longer than the model's context")] * len(prompts)
        fitting = [i for i in range(len(prompts)) if len(ids[i]) < context]
        for begin in range(0, len(fitting), generation.batch_size):
            batch = fitting[begin : begin + generation.batch_size]
            padded = tokenizer.pad({"input_ids": [ids[i] for i in batch]}, return_tensors="pt").to(model.device)
            length = padded["input_ids"].shape[1]
            torch.manual_seed(prompts[batch[0]].seed)
            tokens = model.generate(
                **padded,
                max_new_tokens=min(generation.max_new_tokens, context - length),
                pad_token_id=tokenizer.pad_token_id,
                **(greedy if generation.temperature == 0 else drawn),
            )[:, length:]
            ends = _end_ids(model, tokenizer)
            for i, row in zip(batch, tokens.tolist(), strict=True):
                size = next((n for n, token in enumerate(row, 1) if token in ends), len(row))
                text = tokenizer.decode(row[:size], skip_special_tokens=True).strip()
                answers[i] = Answer(text, size, row[size - 1] in ends if size else True)
        return answers

    return work


def _end_ids(model: Any, tokenizer: Any) -> set[int]:
    found = model.generation_config.eos_token_id
    found = found if isinstance(found, list) else [found]
    return {token for token in (*found, tokenizer.eos_token_id) if token is not None}


def _endpoint(system: System, generation: Generation) -> Work:
    """An OpenAI-compatible endpoint; a setting goes to the chat template, which is how a served checkpoint steers."""
    try:
        import openai
        from openai.types.chat import ChatCompletion
    except ImportError:
        raise UserError("an endpoint needs the openai package: pip install 'steerlm[judge]'") from None
    extra = {"chat_template_kwargs": {"attributes": dict(system.setting)}} if system.setting else None

    async def ask(client: AsyncOpenAI, prompt: Prompt) -> Answer:
        messages: Any = [{"role": message.role, "content": message.content} for message in prompt.messages]
        for attempt in range(1, _MALFORMED + 1):
            try:
                reply: Any = await client.chat.completions.create(
                    model=system.model,
                    messages=messages,
                    max_tokens=generation.max_new_tokens,
                    temperature=generation.temperature,
                    extra_body=extra,
                )
            except openai.APIStatusError as error:
                if error.status_code in _REFUSED_STATUS:
                    return Answer(None, problem=f"refused by the endpoint with status {error.status_code}")
                raise
            except (ValueError, openai.APIResponseValidationError):
                reply = None
            # the client hands on whatever a proxy sends, a web page included
            if isinstance(reply, ChatCompletion) and reply.choices:
                break
            if attempt == _MALFORMED:
                raise UserError(f"its replies are no chat completions ({_MALFORMED} in a row)")
            await asyncio.sleep(_PAUSE_S * attempt)
        choice = reply.choices[0]
        if choice.message.content is None:
            return Answer(None, problem="the endpoint's reply holds no text")
        tokens = reply.usage.completion_tokens if reply.usage else None
        return Answer(choice.message.content, tokens, choice.finish_reason != "length")

    async def ask_all(prompts: list[Prompt]) -> list[Answer]:
        key = os.environ.get("OPENAI_API_KEY") or "no-key-needed"
        async with openai.AsyncOpenAI(
            base_url=system.where, api_key=key, max_retries=_RETRIES, timeout=_TIMEOUT_S
        ) as client:
            # all of them end before the first error is raised: none is left under way on a closed client
            found = await asyncio.gather(*(ask(client, prompt) for prompt in prompts), return_exceptions=True)
        answers = []
        for answer in found:
            if isinstance(answer, BaseException):
                raise answer
            answers.append(answer)
        return answers

    def work(prompts: list[Prompt]) -> list[Answer]:
        try:
            answers = asyncio.run(ask_all(prompts))
        except (openai.OpenAIError, UserError) as error:
            raise UserError(
                f"system {system.name!r}: the endpoint {system.shown} gave out: {error}; "
                "the answers so far are kept, the same command goes on"
            ) from None
        if all(answer.text is None for answer in answers):
            raise UserError(f"system {system.name!r}: {system.shown} answered nothing: {answers[0].problem}")
        return answers

    return work

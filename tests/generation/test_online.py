"""Requests that come while others are decoded: the same tokens as alone, places that are freed, shared prompts."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence

import pytest
import torch
from transformers import PreTrainedModel

from steerlm.attributes import OASST
from steerlm.conversation import Message
from steerlm.generation.decoding import Decoder, decode
from steerlm.generation.detokenizing import ResponseText
from steerlm.generation.engine import LocalEngine, Request, Sampling, said
from steerlm.generation.online import Job, QueueFull, Scheduler, SchedulerStopped
from steerlm.generation.requests import Draw
from steerlm.template.conversation_encoder import ConversationEncoder
from tests.thread_worker import thread_worker
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

TOKENIZER = byte_tokenizer(OASST)
ENCODER = ConversationEncoder(TOKENIZER, OASST)
TEXTS = ["Hi", "Why is the sky blue, and why is it red at dusk?", "Tell me a joke.", "Name three rivers in Europe."]


@pytest.fixture(scope="module")
def model() -> PreTrainedModel:
    return random_model(tiny_llama_config(len(TOKENIZER)), 5, 0.25)


@pytest.fixture
def engine(model: PreTrainedModel) -> LocalEngine:
    return LocalEngine(model, TOKENIZER, OASST, batch_size=6)


@pytest.fixture
def scheduler(engine: LocalEngine) -> Iterator[Scheduler]:
    scheduler = Scheduler(thread_worker(engine.decoder()), max_waiting=200)
    yield scheduler
    scheduler.close()


def submit(
    scheduler: Scheduler, engine: LocalEngine, request: Request, sampling: Sampling
) -> tuple[Job, threading.Event]:
    done = threading.Event()
    jobs: list[Job] = []

    def notify() -> None:
        if jobs and (jobs[0].done or not scheduler.running):
            done.set()

    job = scheduler.submit(engine.draws(request, sampling, said(request.messages)), notify)
    jobs.append(job)
    if job.done:
        done.set()
    return job, done


def requests() -> list[tuple[Request, Sampling]]:
    mixed = []
    for i in range(24):
        wanted = {"quality": 4, "humor": i % 5} if i % 3 else {}
        guidance = {"humor": 2.0} if i % 4 == 1 else None
        request = Request((Message("user", TEXTS[i % 4]),), wanted, 1 + i % 2, seed=i, guidance=guidance)
        greedy = Sampling(5 + 7 * (i % 6), temperature=0)
        mixed.append((request, greedy if i % 2 else Sampling(30, temperature=0.5 + i / 20, top_k=i, top_p=0.9)))
    return mixed


def test_requests_at_any_time_get_what_they_get_alone(engine: LocalEngine, scheduler: Scheduler) -> None:
    submitted = []
    for i, (request, sampling) in enumerate(requests()):
        submitted.append((request, sampling, *submit(scheduler, engine, request, sampling)))
        if i % 5 == 4:
            time.sleep(0.02)
    texts = set()
    for request, sampling, job, done in submitted:
        assert done.wait(60)
        alone = list(engine.draws(request, sampling, 0))
        lonely = Decoder(engine._model, batch_size=4, stop_ids=engine.prompting.stop_ids)
        lonely.add(alone)
        while lonely.busy:
            lonely.step()
        assert [row.tokens for row in job.rows] == [row.tokens for row in alone]
        texts.update(tuple(row.tokens) for row in job.rows)
    assert len(texts) > 20
    deadline = time.monotonic() + 60
    while scheduler.num_running and time.monotonic() < deadline:
        time.sleep(0.001)
    assert (scheduler.num_running, scheduler.num_waiting) == (0, 0)


def endless(model: PreTrainedModel) -> LocalEngine:
    """An engine that never draws a stop token."""
    ids = sorted(ENCODER.control_ids)

    def never(module: object, args: object, output: torch.Tensor) -> torch.Tensor:
        return output.index_fill(-1, torch.tensor(ids), -1e9)

    fresh = random_model(tiny_llama_config(len(TOKENIZER), 100_000), 5, 0.25)
    fresh.lm_head.register_forward_hook(never)
    return LocalEngine(fresh, TOKENIZER, OASST, batch_size=2)


def test_whole_samples_are_told_of_when_they_are_done(engine: LocalEngine, scheduler: Scheduler) -> None:
    request = Request((Message("user", "Hi"),), {"humor": 3}, 3, seed=1)
    rows = engine.draws(request, Sampling(40, temperature=1), said(request.messages))
    seen: list[list[tuple[int, bool]]] = []
    ended = threading.Event()

    def notify() -> None:
        seen.append([(len(row.tokens), row.done) for row in rows])
        if all(row.done for row in rows):
            ended.set()

    scheduler.submit(rows, notify, every_step=False)
    assert ended.wait(60)
    assert len(seen) <= len(rows)
    assert all(done for state in seen for count, done in state if count)
    expected = engine.draws(request, Sampling(40, temperature=1), said(request.messages))
    for _ in decode(engine._model, expected, batch_size=6, stop_ids=engine.prompting.stop_ids):
        pass
    assert [row.tokens for row in rows] == [row.tokens for row in expected]


def test_a_cancelled_request_frees_its_place(model: PreTrainedModel) -> None:
    engine = endless(model)
    scheduler = Scheduler(thread_worker(engine.decoder()), max_waiting=10)
    long, short = Sampling(50_000, temperature=0), Sampling(5, temperature=0)
    request = Request((Message("user", "Hi"),), None)
    first, gone = submit(scheduler, engine, request, long)
    submit(scheduler, engine, request, long)
    waiting, done = submit(scheduler, engine, request, short)
    never, never_done = submit(scheduler, engine, request, long)
    scheduler.cancel(never)
    assert never_done.wait(60)
    assert not done.wait(0.2), "two places are taken"
    scheduler.cancel(first)
    assert gone.wait(60)
    assert done.wait(60)
    assert len(waiting.rows[0].tokens) == 5
    assert not never.rows[0].tokens
    scheduler.close()
    with pytest.raises(SchedulerStopped):
        submit(scheduler, engine, request, short)


def test_the_queue_is_bounded_and_close_wakes_those_who_wait(model: PreTrainedModel) -> None:
    engine = endless(model)
    scheduler = Scheduler(thread_worker(engine.decoder()), max_waiting=4)
    request = Request((Message("user", "Hi"),), None, num_samples=2)
    jobs = [submit(scheduler, engine, request, Sampling(50_000)) for _ in range(2)]
    while scheduler.num_running < 2:
        time.sleep(0.001)
    jobs += [submit(scheduler, engine, request, Sampling(50_000))]
    with pytest.raises(QueueFull):
        submit(scheduler, engine, request, Sampling(50_000))
    scheduler.close()
    assert all(done.wait(60) for _, done in jobs)
    assert not any(job.done for job, _ in jobs)


def test_an_error_while_decoding_reaches_those_who_wait(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[BaseException | None] = []
    monkeypatch.setattr(threading, "excepthook", lambda raised: seen.append(raised.exc_value))

    def broken(*arguments: object) -> list[Draw]:
        raise RuntimeError("the device is gone")

    monkeypatch.setattr(Decoder, "step", broken)
    scheduler = Scheduler(thread_worker(engine.decoder()), max_waiting=4)
    job, done = submit(scheduler, engine, Request((Message("user", "Hi"),), None), Sampling(5))
    assert done.wait(60)
    assert not job.done
    assert not scheduler.running
    scheduler.close()
    assert str(seen[0]) == "the device is gone"


def test_a_later_setting_computes_its_header_only(engine: LocalEngine) -> None:
    shapes: list[tuple[int, int]] = []
    hook = engine._model.register_forward_pre_hook(
        lambda module, arguments, named: shapes.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    decoder = engine.decoder()
    messages = (Message("user", TEXTS[1] * 3),)
    answers: list[Sequence[int]] = []
    for humor in range(5):
        rows = engine.draws(Request(messages, {"humor": humor}), Sampling(4, temperature=0), said(messages))
        decoder.add(rows)
        while decoder.busy:
            decoder.step()
        answers.append(rows[0].tokens)
    hook.remove()
    prompt = len(engine.encoder.prompt(messages, {"humor": 0}))
    computed = sorted((columns for _, columns in shapes if columns > 1), reverse=True)
    assert computed[0] == prompt
    assert len(computed) == 5
    assert max(computed[1:]) <= 4
    alone = engine.generate([Request(messages, {"humor": humor}) for humor in range(5)], Sampling(4, temperature=0))
    assert [engine.encoder.decode(tokens) for tokens in answers] == [sample.text for [sample] in alone]


def test_the_next_turn_and_a_common_beginning_are_not_computed_again(engine: LocalEngine) -> None:
    shapes: list[tuple[int, int]] = []
    hook = engine._model.register_forward_pre_hook(
        lambda module, arguments, named: shapes.append(tuple(named["input_ids"].shape)), with_kwargs=True
    )
    decoder = engine.decoder()
    system = Message("system", "Speak plainly, as to a friend. " * 6)
    first = (system, Message("user", TEXTS[1]))
    turns = (first, (*first, Message("assistant", "Air scatters blue."), Message("user", "Oh?")))
    other = (system, Message("user", TEXTS[3]))
    computed: list[int] = []
    for messages in (*turns, other):
        shapes.clear()
        rows = engine.draws(Request(messages, {"humor": 1}), Sampling(4, temperature=0), said(messages))
        decoder.add(rows)
        while decoder.busy:
            decoder.step()
        computed.append(sum(columns for _, columns in shapes if columns > 1))
        [[alone]] = engine.generate([Request(messages, {"humor": 1})], Sampling(4, temperature=0))
        assert engine.encoder.decode(rows[0].tokens) == alone.text
    hook.remove()
    whole = [len(engine.encoder.prompt(messages, {"humor": 1})) for messages in (*turns, other)]
    said_first = len(system.content) + len(TEXTS[1])
    assert computed[0] == whole[0]
    assert computed[1] < whole[1] - said_first
    assert computed[2] < whole[2] - len(system.content)


def test_remembered_prompts_are_bounded(engine: LocalEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("steerlm.generation.prefill._REMEMBERED_TOKENS", 200)
    decoder = engine.decoder()
    for i in range(20):
        messages = (Message("user", f"Question number {i}: why?"),)
        decoder.add(engine.draws(Request(messages, None), Sampling(2), said(messages)))
        while decoder.busy:
            decoder.step()
    memory = decoder._queue._memory
    assert memory is not None
    assert 0 < memory._num_tokens <= 200
    assert memory._num_tokens == sum(len(tokens) for tokens, _ in memory._prompts.values())
    assert set(memory._latest.values()) == set(memory._prompts), "what was forgotten is not looked up either"
    assert not decoder._queue._computed
    assert not decoder._queue._users


def texts(ids: Sequence[int], stop: Sequence[str], at_once: int = 1) -> tuple[list[str], ResponseText, str]:
    response = ResponseText(ENCODER, stop)
    shown = []
    for first in range(0, len(ids), at_once):
        if response.stopped:
            break
        tokens = ids[first : first + at_once]
        assert response.push_all(tokens) == response.num_tokens - first
        shown.append(response.text.shown())
    return shown, response, response.finish(ids)


@pytest.mark.parametrize("stop", [[], ["nowhere"], ["END"], ["END", "before"], ["e E", "END"]])
@pytest.mark.parametrize(
    "text", ["Grüße, 世界! 👩‍🚀 said", "It comes before END and after", "EN", "EEND", "x\nquality:4"]
)
@pytest.mark.parametrize("at_once", [1, 2, 3, 7, 100])
def test_streamed_text_grows_to_the_text(text: str, stop: list[str], at_once: int) -> None:
    ids = [*TOKENIZER(text)["input_ids"], ENCODER.stop_ids[0]]
    shown, response, final = texts(ids, stop, at_once)
    places = [text.find(string) for string in stop if string in text]
    expected = text[: min(places)] if places else text.removesuffix("\nquality:4")
    assert final == expected
    assert response.stopped == bool(places)
    for earlier, later in zip(shown, [*shown[1:], final], strict=True):
        assert later.startswith(earlier)
        assert "\ufffd" not in earlier
    if not places:
        assert response.num_tokens == len(ids)
    else:
        assert response.num_tokens < len(ids)


def test_bytes_that_are_no_text() -> None:
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        ids = torch.randint(0, 256, (40,), generator=generator).tolist()
        for at_once in (1, 2, 3, 7, 100):
            shown, _, final = texts(ids, [], at_once)
            assert final == ENCODER.decode(ids)
            assert all(final.startswith(piece) for piece in shown)

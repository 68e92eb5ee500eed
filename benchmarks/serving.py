"""A server in a process of its own, requests for it, and what the engine makes of them, for `serve_load`.

    python -m benchmarks.serving ROLE JOB.json      (run by `serve_load`; writes its answer to standard output)

Roles: `alone` samples every request by itself with the engine, `direct` a list of requests in one call, `in_turn` the
same list with as many at a time as there are clients.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import psutil

from benchmarks.clients import Body
from benchmarks.sampling import SCHEMA, TEMPERATURE, TOP_K
from steerlm.attributes import AttributeSchema
from steerlm.conversation import Message, read_conversations
from steerlm.generation.engine import LocalEngine, Request, Sample, Sampling, load_engine, said, strip_label_echo
from steerlm.storage.files import parse_json_line, read_lines

Prompt = list[dict[str, str]]
ROOT = Path(__file__).resolve().parents[1]


def model_of(run: Path) -> Path:
    """Return the steerable model of a finished playground run."""
    return run / "bootstrap" / "model"


def prompts_of(run: Path) -> list[Prompt]:
    """Return the held-out prompts of a playground run, as a client sends them."""
    path = run / "playground" / "prompts.jsonl"
    prompts = []
    for number, line in read_lines(path):
        messages = parse_json_line(line, path, number)["messages"]
        while messages[-1]["role"] != "user":
            messages.pop()
        prompts.append([{"role": m["role"], "content": m["content"]} for m in messages])
    return prompts


def throughput_pool(prompts: Sequence[Prompt], schema: AttributeSchema, count: int) -> list[Body]:
    """Return requests of one kind: seeded sampling of whole answers, each at a setting of its own."""
    draw = random.Random(0)
    settings = [{a.name: draw.choice(a.levels) for a in schema} for _ in range(count)]
    return [_sampled(prompts[i % len(prompts)], setting, 160, i) for i, setting in enumerate(settings)]


def larger_pool(path: Path, count: int, max_tokens: int) -> list[Body]:
    """Return requests of one kind for a model with random weights, with the prompts of a file."""
    pool = []
    for i, row in enumerate(itertools.islice(itertools.cycle(read_conversations(path, SCHEMA)), count)):
        prompt = [{"role": "user", "content": row.messages[0].content}]
        pool.append(_sampled(prompt, row.messages[1].attributes or {}, max_tokens, i))
    return pool


def _sampled(prompt: Prompt, setting: Mapping[str, Any], max_tokens: int, seed: int) -> Body:
    return {
        "messages": prompt,
        "steer": {"attributes": dict(setting)},
        "temperature": TEMPERATURE,
        "top_k": TOP_K,
        "max_tokens": max_tokens,
        "seed": seed,
    }


def mixed_pool(prompts: Sequence[Prompt], schema: AttributeSchema, count: int) -> list[Body]:
    """Return requests that differ in everything a batch could mix up."""
    drawings: list[Body] = [
        {"temperature": 0},
        {"temperature": 0.7, "top_k": 50},
        {"temperature": 1.0, "top_p": 0.9},
        {"temperature": 1.3},
    ]
    pool = []
    for i in range(count):
        draw = random.Random(i)
        messages = draw.choice(prompts)
        if i % 4 == 3:
            earlier = {"role": "assistant", "content": "That depends. What do you like best?"}
            messages = [*draw.choice(prompts)[:1], earlier, *messages[-1:]]
        wanted: dict[str, Any] = {a.name: draw.choice(a.levels) for a in schema}
        body: Body = {"messages": messages, "seed": i, "max_tokens": draw.choice((8, 32, 80, 160))}
        body |= drawings[i % len(drawings)]
        name = draw.choice([a.name for a in schema.ordinal])
        if i % 5 == 4:
            del wanted[name]
            body["chat_template_kwargs"] = {"attributes": wanted}
        else:
            body["steer"] = {"attributes": wanted}
            if i % 7 == 6:
                wanted[name] = 2.5
            if i % 9 == 8:
                body["steer"]["guidance"] = {name: 1.5}
        if i % 6 == 5:
            body["stop"] = [" and", "?"]
        if i % 8 == 7:
            body |= {"logprobs": True, "top_logprobs": 2}
        if i % 11 == 10:
            body["n"] = 2
        pool.append(body)
    return pool


def request_of(body: Body) -> tuple[Request, Sampling]:
    """Return what the engine is asked where a client sends `body`."""
    messages = tuple(Message(m["role"], m["content"]) for m in body["messages"])
    steer = body.get("steer") or {"attributes": body["chat_template_kwargs"]["attributes"]}
    sampling = Sampling(
        body["max_tokens"], float(body.get("temperature", 1)), body.get("top_k", 0), body.get("top_p", 1.0)
    )
    return Request(messages, steer["attributes"], body.get("n", 1), body["seed"], steer.get("guidance")), sampling


def sampled_alone(engine: LocalEngine, body: Body) -> list[dict[str, Any]]:
    """Return the answers to a request, every one sampled with nothing beside it."""
    request, sampling = request_of(body)
    answers = []
    for row in engine.draws(request, sampling, said(request.messages)):
        decoder = engine.decoder()
        decoder.add([row])
        while decoder.busy:
            decoder.step()
        text = strip_label_echo(engine.encoder.decode(row.tokens), engine.schema)
        places = [text.index(stop) for stop in body.get("stop", ()) if stop in text]
        ended = row.stopped or bool(places)
        answer: dict[str, Any] = {"text": text[: min(places)] if places else text}
        answer["finish_reason"] = "stop" if ended else "length"
        if not places:
            answer["num_tokens"] = len(row.tokens)
            spoken = [token for token in row.tokens if token not in engine.encoder.control_ids]
            answer["tokens"] = [engine.encoder.decode([token]) for token in spoken]
        answers.append(answer)
    return answers


def alone(job: Mapping[str, Any]) -> Any:
    """Sample every request of a pool alone."""
    engine = load_engine(job["model"], batch_size=16)
    return [sampled_alone(engine, body) for body in job["pool"]]


def direct(job: Mapping[str, Any]) -> Any:
    """Time the engine itself on a list of requests that share their sampling settings."""
    return _timed(job, lambda engine, requests, sampling: [s for [s] in engine.generate(requests, sampling)])


def in_turn(job: Mapping[str, Any]) -> Any:
    """Time the engine itself where a request comes only when another one has ended, as clients ask."""

    def sampled(engine: LocalEngine, requests: Sequence[Request], sampling: Sampling) -> list[Sample]:
        rows = [engine.draws(request, sampling, said(request.messages))[0] for request in requests]
        waiting = iter(rows)
        decoder = engine.decoder()
        decoder.add(list(itertools.islice(waiting, job["batch_size"])))
        while decoder.busy:
            ended = sum(row.done for row in decoder.step())
            decoder.add(list(itertools.islice(waiting, ended)))
        return [engine.prompting.sample(row.tokens, row.stopped) for row in rows]

    return _timed(job, sampled)


def _timed(
    job: Mapping[str, Any], sampled: Callable[[LocalEngine, Sequence[Request], Sampling], list[Sample]]
) -> dict[str, Any]:
    asked = [request_of(body) for body in [*job["before"], *job["pool"]]]
    sampling = asked[0][1]
    assert all(other == sampling for _, other in asked)
    requests = [request for request, _ in asked]
    engine = load_engine(job["model"], batch_size=job["batch_size"])
    sampled(engine, requests[: len(job["before"])], sampling)
    requests = requests[len(job["before"]) :]
    began, used = time.perf_counter(), time.process_time()
    samples = sampled(engine, requests, sampling)
    seconds, used = time.perf_counter() - began, time.process_time() - used
    tokens = sum(sample.num_tokens for sample in samples)
    return {"seconds": seconds, "cpu_seconds": used, "tokens": tokens, "texts": [sample.text for sample in samples]}


class Server:
    """`steerlm serve` in a process of its own.

    Attributes:
        url: where it listens.
        process: its process.
    """

    def __init__(self, model: Path, environment: Mapping[str, str], command: Sequence[str] = ()) -> None:
        """Start it and wait until it listens."""
        self._popen = subprocess.Popen(
            [*(command or [sys.executable, "-m", "steerlm"]), "serve", str(model), "--name", "load", "--port", "0"],
            stdout=subprocess.PIPE, text=True, env={**os.environ, **environment}, cwd=ROOT,
        )  # fmt: skip
        assert self._popen.stdout is not None
        line = next((line for line in self._popen.stdout if "http://" in line), None)
        if line is None:
            raise RuntimeError("the server did not start")
        self.url = line[line.index("http://") :].split("/v1")[0]
        self.process = psutil.Process(self._popen.pid)

    def processes(self) -> list[psutil.Process]:
        """Return the one that talks to clients and those that it started: one of them decodes."""
        return [self.process, *self.process.children(recursive=True)]

    def cpu_seconds(self) -> float:
        """Return what all of them have used."""
        times = [process.cpu_times() for process in self.processes()]
        return float(sum(used.user + used.system for used in times))

    def memory_mib(self) -> float:
        """Return what all of them hold; pages that they share count for each."""
        return float(sum(process.memory_info().rss for process in self.processes())) / 2**20

    def stop(self) -> None:
        """End it as Ctrl-C does."""
        self._popen.send_signal(signal.SIGINT)
        self._popen.wait(30)
        assert self._popen.stdout is not None
        self._popen.stdout.close()


@contextlib.contextmanager
def serving(model: Path, environment: Mapping[str, str]) -> Iterator[Server]:
    """Serve a model for a while."""
    server = Server(model, environment)
    try:
        yield server
    finally:
        server.stop()


ROLES = {"alone": alone, "direct": direct, "in_turn": in_turn}
_MODULES = {"alone": "serving", "direct": "serving", "in_turn": "serving", "clients": "clients", "probe": "clients"}


class Helper:
    """One of the roles in a process of its own."""

    def __init__(self, role: str, job: Mapping[str, Any], folder: Path, environment: Mapping[str, str]) -> None:
        """Start it."""
        path = folder / f"{role}.json"
        path.write_text(json.dumps(job), encoding="utf-8")
        self._popen = subprocess.Popen(
            [sys.executable, "-m", f"benchmarks.{_MODULES[role]}", role, str(path)],
            stdout=subprocess.PIPE, env={**os.environ, **environment}, cwd=ROOT,
        )  # fmt: skip

    def result(self) -> Any:
        """Wait for its answer."""
        out, _ = self._popen.communicate()
        if self._popen.returncode:
            raise RuntimeError(f"{self._popen.args!r} failed")
        return json.loads(out)


if __name__ == "__main__":
    print(json.dumps(ROLES[sys.argv[1]](json.loads(Path(sys.argv[2]).read_text(encoding="utf-8")))))

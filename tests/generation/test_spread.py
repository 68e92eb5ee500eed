"""A model on several devices says and scores what the same model on one device does (two processes on the CPU)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from torch.distributed.tensor import DTensor

from steerlm.attributes import OASST
from steerlm.checkpoint.models import CheckpointInfo, load_causal_lm, save_model
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.generation import cache_room, decoding
from steerlm.generation.cache_room import affordable, cache_bytes_per_token
from steerlm.generation.engine import LocalEngine, load_engine
from steerlm.generation.opening import open_engine
from steerlm.generation.requests import Draw, Request, Sampling
from steerlm.generation.spread import SpreadEngine
from steerlm.scorers.spread import open_attribute_model
from tests import processes
from tests.scorers.test_attribute_models import SCHEMA, classifier, info
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

TOKENIZER = byte_tokenizer(OASST)
REQUESTS = [Request((Message("user", f"Hello {i}"),), {"quality": i}, num_samples=2, seed=i) for i in range(4)]


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spread") / "model"
    model = random_model(tiny_llama_config(len(TOKENIZER), 256))
    save_model(folder, model, TOKENIZER, CheckpointInfo("sft", OASST, "steerlm"), "card")
    return folder


def held(engine: LocalEngine) -> tuple[bool, float]:
    """Return whether a process holds a part of its model's matrices, and its share of all weights."""
    weights = list(engine._model.parameters())
    local = sum(w.to_local().numel() if isinstance(w, DTensor) else w.numel() for w in weights)
    return any(isinstance(w, DTensor) for w in weights), local / sum(w.numel() for w in weights)


def refuse(engine: LocalEngine, text: str) -> None:
    raise UserError(text)


def test_two_processes_say_what_one_says(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    processes.copied(monkeypatch)
    spread = open_engine("local", checkpoint, "fp32", 4, devices=2)
    assert isinstance(spread, SpreadEngine)
    alone = load_engine(checkpoint, "fp32", 4)
    for sampling in (Sampling(12, 0.0), Sampling(12, 1.0, 0)):
        assert spread.generate(REQUESTS, sampling) == alone.generate(REQUESTS, sampling)
    assert (
        "".join(spread.stream(REQUESTS[0], Sampling(12, 0.0))) == alone.generate(REQUESTS, Sampling(12, 0.0))[0][0].text
    )
    assert spread.room(REQUESTS[0]) == alone.room(REQUESTS[0])
    sharded, share = spread._ranks.call(held)
    assert sharded
    assert share < 0.8  # embeddings and norms are whole in each
    ranks = spread._ranks._processes
    with pytest.raises(UserError, match="a mistake in each"):
        spread._ranks.call(refuse, "a mistake in each")
    assert not any(process.is_alive() for process in ranks)


def test_a_model_that_cannot_be_cut_is_refused(checkpoint: Path) -> None:
    with pytest.raises(UserError, match="devices_per_model: 3 does not divide the 2 key-value heads"):
        load_causal_lm(checkpoint, spread=3)
    with pytest.raises(UserError, match="OpenVINO computes on one device"):
        open_engine("openvino", checkpoint, devices=2)


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["regression", "generative"])
def test_two_processes_score_what_one_scores(kind: str, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(SCHEMA)
    config = tiny_llama_config(len(tokenizer))
    model = classifier(config, tokenizer) if kind == "regression" else random_model(config)
    save_model(tmp_path / "model", model, tokenizer, info(kind), "card")
    turns = [[Message("user", f"Hello {i // 2}"), Message("assistant", "abc " * i + "x")] for i in range(6)]
    alone = open_attribute_model(tmp_path / "model", "fp32")
    spread = open_attribute_model(tmp_path / "model", "fp32", devices=2)
    assert spread.who == alone.who
    for one, two in zip(alone.score(turns), spread.score(turns), strict=True):
        assert one is not None
        assert two is not None
        for name, score in one.items():
            assert two[name].mean == pytest.approx(score.mean, abs=1e-4)
            assert two[name].probabilities == pytest.approx(score.probabilities, abs=1e-5)


def test_the_batch_follows_the_free_memory(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = load_engine(checkpoint, "fp32", 8)
    # two layers, two heads of eight numbers, keys and values, four bytes each
    assert cache_bytes_per_token(engine._model) == 2 * 2 * 2 * 8 * 4
    together: list[int] = []
    whole_loop = decoding.decode

    def decode(model: Any, rows: list[Draw], *, batch_size: int, **others: Any) -> Any:
        together.append(batch_size)
        return whole_loop(model, rows, batch_size=batch_size, **others)

    monkeypatch.setattr(decoding, "decode", decode)
    sampling = Sampling(12, 1.0, 0)
    whole = engine.generate(REQUESTS, sampling)
    longest = max(len(lane.prompt) for request in REQUESTS for lane in engine.prompting.lanes(request)) + 12
    for room, wanted in ((2.5, 2), (0.1, 1), (100.0, 8)):
        free = int(room * 2 * longest * cache_bytes_per_token(engine._model) / 0.9)
        monkeypatch.setattr(cache_room, "free_memory", lambda device, free=free: free)
        assert engine.generate(REQUESTS, sampling) == whole
        assert together[-1] == wanted
    monkeypatch.setattr(cache_room, "free_memory", lambda device: None)
    assert affordable(engine._model, 8, longest) == 8

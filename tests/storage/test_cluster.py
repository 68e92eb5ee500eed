"""Ray: the same bytes as one process writes, in the same order, also when a worker dies."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest

from steerlm.checkpoint.models import save_model
from steerlm.config import AnnotateConfig, BootstrapConfig, TrainSftConfig
from steerlm.conversation import write_conversations
from steerlm.errors import UserError
from steerlm.scorers.attribute_models import load_attribute_model
from steerlm.stages.annotate import stage as annotate_stage
from steerlm.stages.annotate.stage import Labeller, ScoredWindow, Window, annotate
from steerlm.stages.bootstrap.data import Bootstrap, sample, score, write_prompts
from steerlm.stages.bootstrap.selection import Combinations
from steerlm.storage.cluster import Cluster, chosen_cluster, map_in_order
from tests.scorers.test_attribute_models import classifier, info
from tests.stages.test_annotate import SCHEMA, conversation, files
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

# Ray's own warnings, about itself
pytestmark = pytest.mark.filterwarnings(
    "ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::ResourceWarning", "ignore::UserWarning"
)

CLUSTER = Cluster("local", workers=2)


def test_options() -> None:
    assert chosen_cluster(None, None) is None
    assert chosen_cluster("auto", None) == Cluster("auto", None)
    with pytest.raises(UserError, match="needs --ray"):
        chosen_cluster(None, 2)
    with pytest.raises(UserError, match="--workers 0: at least one"):
        chosen_cluster("local", 0)


def test_a_missing_extra_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match=r"pip install 'steerlm\[ray\]'"):
        list(map_in_order(CLUSTER, lambda number: b"", range(3)))
    assert list(map_in_order(CLUSTER, lambda number: b"", range(0))) == []


@pytest.fixture(scope="module")
def ray() -> Iterator[Any]:
    """A cluster of two CPUs in this machine."""
    ray = pytest.importorskip("ray", reason="the extra ray is not installed")
    ray.init(address="local", num_cpus=2, object_store_memory=100_000_000, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An attribute model with random weights."""
    folder = tmp_path_factory.mktemp("model")
    tokenizer = byte_tokenizer(SCHEMA)
    scorer = classifier(tiny_llama_config(len(tokenizer)), tokenizer, SCHEMA)
    save_model(folder, scorer, tokenizer, info("regression", SCHEMA), "")
    return folder


@pytest.mark.slow
def test_annotating_on_a_cluster_gives_the_same_files_also_when_a_worker_dies(
    ray: Any, model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = tmp_path / "in" / "chats.jsonl.gz"
    write_conversations(data, map(conversation, range(43)), SCHEMA)
    config = AnnotateConfig(window=4, tokens_per_batch=2000, precision="fp32")
    annotate(config, [data], model, tmp_path / "one")

    annotate(config, [data], model, tmp_path / "cluster", CLUSTER)
    assert files(tmp_path / "cluster") == files(tmp_path / "one")

    deaths = tmp_path / "deaths"
    deaths.mkdir()

    class Mortal(Labeller):
        """Takes its process with it at a worker's second window, the first time that this happens."""

        def score(self, window: Window) -> ScoredWindow:
            scored = super().score(window)
            (deaths / f"{os.getpid()}-{window.lines[0][0]}").touch()
            if len(list(deaths.iterdir())) == 3:
                os._exit(1)
            return scored

    def mortal(config: AnnotateConfig, model: Path, cluster: Cluster | None) -> Labeller:
        return Mortal(**vars(made(config, model, cluster)))

    made = annotate_stage._labeller
    monkeypatch.setattr(annotate_stage, "_labeller", mortal)
    annotate(config, [data], model, tmp_path / "death", CLUSTER)
    assert files(tmp_path / "death") == files(tmp_path / "one")
    scored = [path.name.split("-") for path in deaths.iterdir()]
    assert len(scored) > len({window for _, window in scored}) == 11, "no window was computed again: nobody died"
    assert str(os.getpid()) not in {process for process, _ in scored}


@pytest.mark.slow
def test_a_mistake_in_the_data_is_named_and_what_was_written_stays(ray: Any, model: Path, tmp_path: Path) -> None:
    data = tmp_path / "chats.jsonl"
    write_conversations(data, map(conversation, range(12)), SCHEMA)
    with data.open("ab") as stream:
        stream.write(b'{"id": "broken", \n')
    config = AnnotateConfig(window=4, tokens_per_batch=2000, precision="fp32")
    with pytest.raises(UserError, match=r"chats\.jsonl:13:\d+: malformed JSON"):
        annotate(config, [data], model, tmp_path / "out", CLUSTER)
    assert (tmp_path / "out" / "chats.jsonl.partial").read_bytes().count(b"\n") == 12


@pytest.mark.slow
def test_sampling_and_scoring_on_a_cluster_give_the_same_files(ray: Any, model: Path, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(SCHEMA)
    steerable = random_model(tiny_llama_config(len(tokenizer)))
    sft = info("sft", SCHEMA)
    save_model(tmp_path / "sft", steerable, tokenizer, sft, "")
    data = tmp_path / "data.jsonl"
    write_conversations(data, map(conversation, range(21)), SCHEMA)
    best = ({"quality": 4, "humor": 1, "lang": "en"}, {"quality": 4, "humor": 9, "lang": "de"})

    def run(out: Path, cluster: Cluster | None) -> dict[str, bytes]:
        config = BootstrapConfig(samples_per_prompt=3, max_new_tokens=12, batch_size=2, temperature=1.2)
        job = Bootstrap(
            config, TrainSftConfig(base_model="none"), model, data, data, SCHEMA,
            Combinations(best, best, True), out, 3, (), cluster,
        )  # fmt: skip
        write_prompts(job, 1, out / "prompts.jsonl")
        sample(job, 1, tmp_path / "sft", out, temperature=1.2)
        score(job, out)
        return files(out)

    here = run(tmp_path / "one", None)
    assert run(tmp_path / "cluster", CLUSTER) == here
    assert here["samples.jsonl"].count(b"\n") == 21
    assert load_attribute_model(model).schema == SCHEMA


def stand_in(monkeypatch: pytest.MonkeyPatch, gpus: int) -> dict[str, Any]:
    """Let a module that records what is asked of it take Ray's place; what it got is filled in."""
    asked: dict[str, Any] = {}

    class Dataset:
        def __init__(self, items: list[int]) -> None:
            self.items = items

        def map(self, worker: Any, **how: Any) -> Dataset:
            asked.update(how)
            self.work = worker()
            return self

        def iter_rows(self) -> Iterator[Any]:
            return (self.work({"item": item}) for item in self.items)

    ray, data = ModuleType("ray"), ModuleType("ray.data")
    context = SimpleNamespace(execution_options=SimpleNamespace(), enable_progress_bars=True)
    for name, value in {
        "from_items": lambda items, override_num_blocks: Dataset(items),
        "DataContext": SimpleNamespace(get_current=lambda: context),
        "ActorPoolStrategy": lambda size: size,
    }.items():
        setattr(data, name, value)
    for name, value in {
        "data": data,
        "is_initialized": lambda: True,
        "cluster_resources": lambda: {"GPU": gpus, "CPU": 8},
    }.items():
        setattr(ray, name, value)
    monkeypatch.setitem(sys.modules, "ray", ray)
    monkeypatch.setitem(sys.modules, "ray.data", data)
    return asked


def test_a_worker_gets_as_many_gpus_as_its_model_needs(monkeypatch: pytest.MonkeyPatch) -> None:
    asked = stand_in(monkeypatch, gpus=8)
    assert list(map_in_order(Cluster("auto", None, 4), lambda number: bytes([number]), range(3))) == [
        b"\0",
        b"\1",
        b"\2",
    ]
    assert (asked["num_gpus"], asked["compute"]) == (4, 2)
    with pytest.raises(UserError, match="devices_per_model: 16, and the cluster has 8"):
        list(map_in_order(Cluster("auto", None, 16), lambda number: b"", range(3)))

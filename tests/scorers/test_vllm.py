"""Scores of an attribute model that vLLM computes: by a stand-in that computes as it does, and by vLLM where it is."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import pytest
import torch
from transformers import AutoModelForSequenceClassification, Gemma3TextConfig

from steerlm.attributes import OASST
from steerlm.checkpoint.models import (
    CheckpointInfo,
    load_sequence_classifier,
    save_model,
)
from steerlm.checkpoint.served import served_architectures
from steerlm.config import AnnotateConfig
from steerlm.conversation import Conversation, Message, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.scorers.attribute_models import LoadedAttributeModel, load_attribute_model
from steerlm.scorers.heads import HEAD_FILE
from steerlm.scorers.spread import open_attribute_model
from steerlm.stages.annotate.stage import annotate
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

TOKENIZER = byte_tokenizer(OASST)
CONTEXT = 256
TURNS = [
    (Message("user", f"Question {i}"), Message("assistant", "so it is, " * (1 + i % 5) + str(i))) for i in range(12)
]


class PoolerConfig(SimpleNamespace):
    """vLLM's, of which we say one thing."""

    def __init__(self, *, use_activation: bool) -> None:
        super().__init__(use_activation=use_activation)


class LLM:
    """`vllm.LLM` with the pooling runner: outputs of the head at the last token, each conversation alone."""

    started: dict[str, Any]
    calls: list[int]

    def __init__(self, model: str, **settings: Any) -> None:
        LLM.started, LLM.calls = {"model": model, **settings}, []
        self._model = AutoModelForSequenceClassification.from_pretrained(model).eval()
        self._model.config.pad_token_id = 0

    def classify(self, prompts: list[dict[str, list[int]]], *, use_tqdm: bool) -> list[Any]:
        assert not use_tqdm
        LLM.calls.append(len(prompts))
        with torch.inference_mode():
            rows = [self._model(torch.tensor([prompt["prompt_token_ids"]])).logits[0] for prompt in prompts]
        return [SimpleNamespace(outputs=SimpleNamespace(probs=row.tolist())) for row in rows]


def save_classifier(folder: Path) -> Path:
    """Write an attribute model with a random head on the last token."""
    base = folder / "base"
    config = tiny_llama_config(len(TOKENIZER), CONTEXT)
    config.hidden_size, config.head_dim = 64, 32  # the smallest heads that vLLM computes
    random_model(config).save_pretrained(base)
    torch.manual_seed(1)
    model = load_sequence_classifier(base, OASST)
    torch.nn.init.normal_(model.score.weight, 0.0, 0.1)
    model.config.pad_token_id = TOKENIZER.pad_token_id
    statistics = {"residual_std": dict.fromkeys(OASST.names, 0.5), "cut_points": {"quality": [0.2, 0.4, 2, 3]}}
    info = CheckpointInfo("regression", OASST, "steerlm", label_statistics=statistics, provenance={"max_length": 200})
    save_model(folder / "model", model, TOKENIZER, info, "card")
    return folder / "model"


@pytest.fixture
def attribute_model(tmp_path: Path) -> Path:
    return save_classifier(tmp_path)


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> None:
    package, config = ModuleType("vllm"), ModuleType("vllm.config")
    package.LLM, config.PoolerConfig = LLM, PoolerConfig  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "vllm", package)
    monkeypatch.setitem(sys.modules, "vllm.config", config)


@pytest.mark.usefixtures("stand_in")
def test_vllm_is_started_without_tokenizer_remote_code_or_activation(attribute_model: Path) -> None:
    open_attribute_model(attribute_model, "fp32", 4, "vllm")
    assert LLM.started == {
        "model": str(attribute_model), "runner": "pooling", "pooler_config": PoolerConfig(use_activation=False),
        "hf_overrides": {"architectures": ["LlamaForSequenceClassification"]}, "skip_tokenizer_init": True,
        "trust_remote_code": False, "dtype": "float32", "max_model_len": 200, "enable_prefix_caching": True,
        "tensor_parallel_size": 4, "seed": 0,
    }  # fmt: skip
    open_attribute_model(attribute_model, "bf16", 1, "vllm")
    assert LLM.started["dtype"] == "bfloat16"


def assert_same(one: LoadedAttributeModel, other: LoadedAttributeModel) -> None:
    """Scores, levels and places of the same conversations are the same up to rounding, and None the same."""
    turns = [*TURNS, (Message("user", "a"), Message("assistant", "b" * CONTEXT)), (Message("assistant", " "),)]
    mine, theirs = one.score(turns), other.score(turns)
    assert [row is None for row in mine] == [row is None for row in theirs]
    assert mine[-1] is mine[-2] is None
    for row, expected in zip(mine, theirs, strict=True):
        if row is not None and expected is not None:
            for name in OASST.names:
                assert row[name].mean == pytest.approx(expected[name].mean, abs=1e-4)
                assert row[name].std == expected[name].std
            assert one.values(row) == other.values(expected)
            assert one.places(row) == pytest.approx(other.places(expected), abs=1e-4)
    assert (one.who, one.label) == (other.who, other.label)


@pytest.mark.usefixtures("stand_in")
def test_scores_are_those_of_the_built_in_engine_and_asked_for_together(attribute_model: Path) -> None:
    other = load_attribute_model(attribute_model, "fp32")
    assert_same(open_attribute_model(attribute_model, "fp32", engine="vllm"), other)
    assert LLM.calls == [len(TURNS)]


@pytest.mark.usefixtures("stand_in")
def test_annotate_writes_what_it_writes_with_the_built_in_engine(attribute_model: Path, tmp_path: Path) -> None:
    rows = [Conversation(id=str(i), source="made", messages=turns) for i, turns in enumerate(TURNS)]
    write_conversations(tmp_path / "data.jsonl", rows, OASST)
    found: dict[str, Mapping[str, Any]] = {}
    for engine in ("local", "vllm"):
        config = AnnotateConfig(engine=engine, precision="fp32", window=5)
        out = tmp_path / engine
        annotate(config, [tmp_path / "data.jsonl"], attribute_model, out)
        found[engine] = {row.id: row.messages[-1].attributes for row in read_conversations(out / "data.jsonl", OASST)}
    assert found["vllm"] == found["local"]
    assert len({tuple(row.values()) for row in found["vllm"].values()}) > 1
    assert sum(LLM.calls) == len(TURNS)


def test_what_vllm_cannot_compute_is_said_before_it_starts(tmp_path: Path, attribute_model: Path) -> None:
    def refused(folder: Path, why: str) -> None:
        with pytest.raises(UserError, match=why):
            open_attribute_model(folder, engine="vllm")

    for kind, why in (("sft", "steerable model"), ("generative", "writes its labels")):
        model = random_model(tiny_llama_config(len(TOKENIZER)))
        save_model(tmp_path / kind, model, TOKENIZER, CheckpointInfo(kind, OASST, "steerlm"), "card")  # type: ignore[arg-type]
        refused(tmp_path / kind, why)
    (attribute_model / HEAD_FILE).write_bytes(b"")
    refused(attribute_model, "readout: last")


def test_a_missing_extra_names_itself(attribute_model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "vllm", None)
    with pytest.raises(UserError, match=r"pip install 'steerlm\[vllm\]'"):
        open_attribute_model(attribute_model, engine="vllm")


def test_gemma_goes_by_the_name_that_vllm_knows() -> None:
    config = Gemma3TextConfig(
        vocab_size=64, hidden_size=16, intermediate_size=16, num_hidden_layers=1, num_attention_heads=1,
        num_key_value_heads=1, head_dim=16,
    )  # fmt: skip
    name = type(AutoModelForSequenceClassification.from_config(config)).__name__
    assert served_architectures([name]) == ["Gemma3ForSequenceClassification"]
    assert served_architectures(["LlamaForSequenceClassification"]) == ["LlamaForSequenceClassification"]
    assert served_architectures(None) == []


@pytest.mark.skipif(find_spec("vllm") is None, reason="vllm is not installed")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of its packages, by each other
@pytest.mark.parametrize("devices", [1, 2])
def test_vllm_itself_gives_the_same_scores(
    attribute_model: Path, devices: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VLLM_NO_USAGE_STATS", "1")
    monkeypatch.setenv("VLLM_CPU_KVCACHE_SPACE", "1")
    if not torch.cuda.is_available():  # a CPU's cores are shared out by hand
        monkeypatch.setenv("VLLM_CPU_OMP_THREADS_BIND", "|".join(map(str, range(devices))))
    other = load_attribute_model(attribute_model, "fp32")
    assert_same(open_attribute_model(attribute_model, "fp32", devices, "vllm"), other)

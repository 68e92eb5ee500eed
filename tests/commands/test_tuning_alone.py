"""What refine, contrast, reinforce and tune-guidance take where no recipe is given."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from steerlm.__main__ import main
from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.commands import common, named_models, tune_guidance
from steerlm.config import EvaluateConfig, RefineConfig
from steerlm.errors import UserError


def test_a_function_that_a_checkpoint_names_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = AttributeSchema((Attribute("length", measure="words"), Attribute("odd", measure="os:getcwd")))
    monkeypatch.setattr(
        named_models, "steerable_model", lambda path, _: (path, CheckpointInfo("sft", schema, "steerlm"))
    )
    given = argparse.Namespace(sft_model=tmp_path, out=tmp_path, attribute_model=None, overrides=[])
    with pytest.raises(UserError, match="attribute-model"):  # somebody else has to say `odd`
        common.tuning_of(given, RefineConfig, "refine")


@pytest.mark.parametrize(
    ("pair", "said"),
    [
        ("evaluate.num_prompts=3", "num_prompts=3 has no effect on tune-guidance: set tune_guidance.num_prompts"),
        ("evaluate.guidance=2", "set tune_guidance.strengths"),
        ("evaluate.prompts=a.jsonl", "give --prompts"),
        ("evaluate.judge.folder=replies", "with --annotator"),
        ("evaluate.engine=openvino", "the engine openvino cannot: set evaluate.engine to local"),
    ],
)
def test_what_of_evaluate_has_no_effect_or_cannot_be_is_refused(
    pair: str, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    schema = AttributeSchema((Attribute("quality"),))
    monkeypatch.setattr(
        named_models, "steerable_model", lambda path, _: (path, CheckpointInfo("sft", schema, "steerlm"))
    )
    prompts = tmp_path / "prompts.jsonl"
    prompts.touch()
    out = tmp_path / "out"
    argv = ["tune-guidance", "--model", "m", "--prompts", str(prompts), "--out", str(out), "--set", pair]
    assert main(argv) == 2
    assert said in capsys.readouterr().err
    assert not out.exists()


def test_what_tune_guidance_reads_of_evaluate() -> None:
    """A new field of the section has to be read, or refused."""
    assert EvaluateConfig.model_fields.keys() - tune_guidance._WITHOUT_EFFECT.keys() == {
        "samples_per_prompt", "measure", "temperature", "top_k", "max_new_tokens", "batch_size", "devices_per_model",
        "engine", "precision",
    }  # fmt: skip

"""What refine, contrast and reinforce take from a checkpoint where no recipe is given."""

from __future__ import annotations

import argparse
from pathlib import Path

import pytest

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.commands import common, named_models
from steerlm.config import RefineConfig
from steerlm.errors import UserError


def test_a_function_that_a_checkpoint_names_is_not_called(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = AttributeSchema((Attribute("length", measure="words"), Attribute("odd", measure="os:getcwd")))
    monkeypatch.setattr(
        named_models, "steerable_model", lambda path, _: (path, CheckpointInfo("sft", schema, "steerlm"))
    )
    given = argparse.Namespace(sft_model=tmp_path, out=tmp_path, attribute_model=None, overrides=[])
    with pytest.raises(UserError, match="attribute-model"):  # somebody else has to say `odd`
        common.tuning_of(given, RefineConfig, "refine")

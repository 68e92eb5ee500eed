"""A run stops before dials that have learned nothing, and says why."""

from __future__ import annotations

from typing import Any

import pytest

from steerlm.errors import UserError
from steerlm.stages.train_attribute_model.gate import refuse_collapsed_labels, refuse_useless_dials


def summary(**rows: dict[str, Any]) -> dict[str, Any]:
    return {"train": {"labels": dict.fromkeys(rows, 381)}, "attributes": rows}


def ordinal(n: int, mae: float, of_mean: float) -> dict[str, Any]:
    return {"n": n, "mae": {"value": mae}, "mean_baseline_mae": {"value": of_mean}}


def categorical(n: int, accuracy: float, commonest: float) -> dict[str, Any]:
    return {"n": n, "accuracy": {"value": accuracy}, "commonest_baseline_accuracy": {"value": commonest}}


def test_attributes_that_are_better_than_the_mean_pass() -> None:
    refuse_useless_dials(summary(quality=ordinal(90, 0.4, 0.9), lang=categorical(90, 0.9, 0.6)))
    refuse_useless_dials(summary(quality=ordinal(5, 1.0, 0.9)))  # five labels say nothing


def test_attributes_that_are_not_are_named_with_rows_and_error() -> None:
    rows = summary(quality=ordinal(90, 0.4, 0.9), humor=ordinal(90, 0.99, 0.9), lang=categorical(90, 0.5, 0.6))
    with pytest.raises(UserError) as caught:
        refuse_useless_dials(rows)
    text = str(caught.value)
    assert "humor (381 rated turns; error 1.10 of that of the mean)" in text
    assert "lang (381 rated turns; error 1.25" in text
    assert "quality" not in text
    assert "--force" in text


def test_labels_on_one_level_are_named() -> None:
    histograms = {"quality": {"0": 40, "1": 60}, "humor": {"0": 996, "1": 4}, "empty": {"0": 0}}
    with pytest.raises(UserError, match=r"humor \(996 of 1000 turns at 0\).*--force"):
        refuse_collapsed_labels({"histograms": histograms})
    refuse_collapsed_labels({"histograms": {"quality": histograms["quality"]}})

"""Outputs per attribute and source: scales that differ, sources that do not agree, spread with its coverage."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.errors import UserError
from steerlm.scorers.features import Readout
from steerlm.scorers.heads import Head
from steerlm.stages.train_attribute_model.fitting import Fitted, fit_all
from steerlm.stages.train_attribute_model.outputs import COVERAGE
from steerlm.stages.train_attribute_model.report import dead_warnings, fit_reports, fit_warnings, fitted_cut_points

SCHEMA = AttributeSchema((Attribute("quality"), Attribute("lang", kind="categorical", categories=("en", "de"))))
WIDTH = 12
ROWS = 900


def world(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, list[str], list[str]]:
    """Features, the quality they show, noise-free, the language, sources and groups."""
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(ROWS, WIDTH)).astype(np.float32)
    quality = 2 + 0.7 * features[:, 0] - 0.4 * features[:, 3]
    lang = (features[:, 5] > 0).astype(float)
    sources = ["abc"[i % 3] for i in range(ROWS)]
    return features, quality, lang, sources, [f"g{i // 2}" for i in range(ROWS)]


def fit(labels: np.ndarray, lang: np.ndarray, anchors: dict[str, str] | None = None) -> Fitted:
    features, _, _, sources, groups = world()
    table = np.stack([labels, lang], axis=1)
    return fit_all(features, table, SCHEMA, sources, groups, anchors or {})


def predictions(head: Head, source: str | None) -> np.ndarray:
    outputs, _ = head(torch.from_numpy(world(7)[0]))
    [column] = head.columns(SCHEMA["quality"], source)
    return 4 * outputs[:, column].numpy()


def test_each_source_is_predicted_on_its_own_scale_and_the_anchor_s_is_the_common_one() -> None:
    _, quality, lang, sources, _ = world()
    stretched = {"a": (0.0, 1.0), "b": (1.0, 0.5), "c": (-0.5, 1.5)}
    noise = np.random.default_rng(3).normal(scale=0.3, size=ROWS)
    labels = np.array([stretched[s][0] + stretched[s][1] * q for s, q in zip(sources, quality, strict=True)]) + noise
    fitted = fit(labels, lang, {"quality": "a"})
    head = fitted.head(Readout("mean", (1,)))
    truth = world(7)[1]
    for source, (offset, slope) in stretched.items():
        assert np.abs(predictions(head, source) - (offset + slope * truth)).mean() < 0.1
        calibration = fitted.calibrations["quality"][source]
        assert (calibration.offset, calibration.slope) == pytest.approx((offset, slope), abs=0.3)
    assert np.abs(predictions(head, None) - truth).mean() < 0.1
    assert predictions(head, "never seen") == pytest.approx(predictions(head, None))
    assert not fit_warnings(fitted)


def test_sources_that_mean_different_things_are_told_and_kept_apart() -> None:
    features, quality, lang, sources, _ = world()
    other = 2 + 0.8 * features[:, 8]
    labels = np.where(np.asarray(sources) == "c", other, quality) + np.random.default_rng(3).normal(size=ROWS) * 0.2
    fitted = fit(labels, lang, {"quality": "a"})
    assert any("means different things in a and c" in warning for warning in fit_warnings(fitted))
    assert not any("in a and b" in warning for warning in fit_warnings(fitted))
    common = predictions(fitted.head(None), None)
    assert np.corrcoef(common, world(7)[1])[0, 1] > 0.98
    assert abs(np.corrcoef(common, world(7)[0][:, 8])[0, 1]) < 0.15


def test_a_source_of_good_answers_and_one_of_bad_ones_are_one_scale() -> None:
    features, quality, lang, _, groups = world()
    sources = np.where(quality > 2, "good", "bad")
    table = np.stack([np.where(quality > 2, 4.0, 0.0), lang], axis=1)
    fitted = fit_all(features, table, SCHEMA, sources.tolist(), groups, {})
    head, better = fitted.head(None), world(7)[1] > 2
    for source in (None, "good", "bad"):
        said = predictions(head, source)
        assert ((said > 2) == better).mean() > 0.9
    [row] = [row for row in fit_reports(fitted, SCHEMA) if row["attribute"] == "quality"]
    assert (row["source"], row["rows"], row["used"]) == (None, ROWS, "ridge")
    assert not fit_warnings(fitted)


@pytest.mark.parametrize(("anchors", "host"), [({}, "a"), ({"quality": "b"}, "b")])
def test_a_source_with_one_label_only_is_read_on_another_s_scale(anchors: dict[str, str], host: str) -> None:
    _, quality, lang, sources, _ = world()
    names = np.asarray(sources)
    # b tells next to nothing about what it rates; c holds good answers only, and rates those of a and b are not
    noisy = np.random.default_rng(3).normal(scale=np.where(names == "b", 3.0, 0.1))
    labels = np.where(names == "c", np.where(quality > 2.5, 4.0, np.nan), quality + noisy)
    fitted = fit(labels, lang, anchors)
    rows = {row["source"]: row for row in fit_reports(fitted, SCHEMA) if row["attribute"] == "quality"}
    assert rows.keys() == {None, "a", "b"}
    assert {source: row["joined"] for source, row in rows.items() if source} == {
        source: ("c",) if source == host else () for source in ("a", "b")
    }
    assert rows[host]["rows"] == (~np.isnan(labels) & (names != ("b" if host == "a" else "a"))).sum()
    assert fitted.calibrations["quality"].keys() == {"a", "b"}


def test_an_anchor_with_one_label_only_is_an_error() -> None:
    _, quality, lang, sources, _ = world()
    labels = np.where(np.asarray(sources) == "c", 4.0, quality)
    with pytest.raises(UserError, match="all labels of 'quality' from 'c' are the same"):
        fit(labels, lang, {"quality": "c"})


def test_labels_without_any_sense_are_predicted_by_their_mean() -> None:
    _, _, lang, sources, _ = world()
    labels = np.random.default_rng(11).integers(0, 5, ROWS).astype(float)
    labels[np.asarray(sources) != "a"] = np.nan
    fitted = fit(labels, lang)
    [row] = [row for row in fit_reports(fitted, SCHEMA) if row["attribute"] == "quality"]
    assert (row["used"], row["rows"]) == ("mean", ROWS // 3)
    assert predictions(fitted.head(None), None) == pytest.approx(np.full(ROWS, np.nanmean(labels)), abs=1e-5)
    [warning] = [w for w in fit_warnings(fitted) if "quality" in w]
    assert "quality cannot be predicted better than by its mean from 300 rows" in warning
    assert "would teach a dial nothing: more or clearer ratings" in warning


def test_spread_follows_the_noise_and_covers_what_it_promises() -> None:
    features, quality, lang, _, _ = world()
    rng = np.random.default_rng(4)
    labels = quality + rng.normal(size=ROWS) * np.where(features[:, 9] > 0, 0.8, 0.2)
    labels[np.asarray(world()[3]) != "a"] = np.nan
    fitted = fit(labels, lang)
    head = fitted.head(None)
    fresh, truth, *_ = world(8)
    outputs, spreads = head(torch.from_numpy(fresh))
    seen = truth + rng.normal(size=ROWS) * np.where(fresh[:, 9] > 0, 0.8, 0.2)
    off, spread = np.abs(seen - 4 * outputs[:, 0].numpy()), 4 * spreads[:, 0].numpy()
    [quality_fit] = fitted.common(SCHEMA["quality"])
    assert np.mean(off <= quality_fit.interval * spread) == pytest.approx(COVERAGE, abs=0.04)
    assert spread[fresh[:, 9] > 0].mean() > 1.7 * spread[fresh[:, 9] < 0].mean()


def test_dead_features_are_named() -> None:
    features, quality, lang, sources, groups = world()
    features[:, 4] = 0.5
    table = np.stack([quality, lang], axis=1)
    readout = Readout("mean", (3, 6))
    fitted = fit_all(features, table, SCHEMA, sources, groups, {})
    assert dead_warnings(fitted, readout, hidden_size=4) == [
        "1 of 12 features never vary and count for nothing: dimension 0 of the mean of layer 6"
    ]


def test_categories_and_cuts() -> None:
    _, quality, lang, sources, _ = world()
    labels = np.clip(np.round(quality), 0, 4)
    fitted = fit(np.where(np.asarray(sources) == "a", labels, np.nan), lang)
    outputs, _ = fitted.head(None)(torch.from_numpy(world(7)[0]))
    columns = fitted.head(None).columns(SCHEMA["lang"], None)
    assert np.mean(outputs[:, columns].argmax(dim=1).numpy() == world(7)[2]) > 0.93
    cuts = fitted_cut_points(fitted, SCHEMA)["quality"]
    assert cuts == pytest.approx((0.5, 1.5, 2.5, 3.5), abs=0.3)


def test_an_anchor_without_labels_is_an_error() -> None:
    _, quality, lang, _, _ = world()
    with pytest.raises(UserError, match=r"anchors: no label of 'quality' is from 'd'.*valid: a, b, c"):
        fit(quality, lang, {"quality": "d"})

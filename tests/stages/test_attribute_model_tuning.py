"""Fine-tuning from a head in closed form: where it starts, what counts how much, and whether it is believed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.scorers.features import Readout
from steerlm.scorers.heads import Output
from steerlm.scorers.ridge import GroupedRidge
from steerlm.stages.train_attribute_model.fitting import fit_all
from steerlm.stages.train_attribute_model.outputs import Fit, Tuned
from steerlm.stages.train_attribute_model.tuning import Headed, held_out_turns, label_weights
from tests.tiny import random_model, tiny_llama_config

SCHEMA = AttributeSchema((Attribute("quality"),))
ROWS, WIDTH = 600, 8


def world() -> tuple[np.ndarray, np.ndarray, list[str], np.ndarray]:
    """Frozen features that show half of what is rated, the ratings, groups, and what the other half is."""
    rng = np.random.default_rng(0)
    features, hidden = rng.normal(size=(ROWS, WIDTH)).astype(np.float32), rng.normal(size=ROWS)
    labels = (2 + 0.5 * features[:, 0] + 0.5 * hidden + rng.normal(scale=0.3, size=ROWS))[:, None]
    return features, labels, [f"g{i // 3}" for i in range(ROWS)], hidden


def used(tuned_features: np.ndarray) -> tuple[bool, float]:
    """Return whether an attribute reads tuned features, and its error over that of the mean."""
    features, labels, groups, _ = world()
    sources = ["a"] * ROWS
    tuned = Tuned(tuned_features.astype(np.float32), held_out_turns(sources, groups))
    fitted = fit_all(features, labels, SCHEMA, sources, groups, {}, tuned=tuned)
    assert fitted.width == WIDTH + tuned_features.shape[1]
    [fit] = fitted.fits
    if not fitted.tuned:
        assert (fit.ridge.weight[WIDTH:] == 0).all()
        assert fitted.narrowed(WIDTH).width == WIDTH
    return fitted.tuned, fit.ridge.error_ratio


def test_tuned_features_are_used_where_they_help_on_prompts_they_have_not_seen() -> None:
    *_, hidden = world()
    noise = np.random.default_rng(1).normal(scale=0.2, size=(ROWS, 3))
    tuned, ratio = used(hidden[:, None] + noise)
    assert tuned
    assert ratio < 0.55 < 0.65 < used(noise)[1]


def test_features_that_learned_their_labels_by_heart_are_not_believed() -> None:
    _, labels, groups, _ = world()
    held = held_out_turns(["a"] * ROWS, groups)
    memory = np.where(held, np.random.default_rng(2).normal(scale=labels.std(), size=ROWS), labels[:, 0] - 2)
    tuned, ratio = used(memory[:, None])
    assert not tuned
    assert ratio == pytest.approx(used(np.zeros((ROWS, 1)))[1]), "the fit to the frozen features, unchanged"


def test_only_held_rows_are_predicted_and_judged() -> None:
    features, labels, groups, _ = world()
    held = held_out_turns(["a"] * ROWS, groups)
    found = GroupedRidge(features, groups, held_N=held).fit(labels[:, 0])
    assert (np.isfinite(found.held_out) == held).all()
    alone = GroupedRidge(features[~held], np.array(groups)[~held].tolist(), penalties=[found.penalty]).fit(
        labels[~held, 0]
    )
    np.testing.assert_allclose(found.held_out[held], features[held] @ alone.weight + alone.bias, atol=1e-2)


def test_of_every_source_whole_groups_are_kept_back() -> None:
    sources = ["big"] * 500 + ["small"] * 40
    groups = [f"b{i // 5}" for i in range(500)] + [f"s{i // 4}" for i in range(36)] + ["b0"] * 4
    held = held_out_turns(sources, groups)
    assert held[:500].mean() == pytest.approx(0.2, abs=0.02)
    assert 0.1 <= held[500:].mean() <= 0.3
    for group in set(groups):
        assert len({bool(h) for h, g in zip(held, groups, strict=True) if g == group}) == 1, group


def cell(source: str, rows: np.ndarray, spread: float) -> Fit:
    targets = spread * np.where(np.arange(len(rows)) % 2, 1.0, -1.0)
    ridge = GroupedRidge(np.ones((len(rows), 2)) * targets[:, None], list(range(len(rows)))).fit(targets)
    return Fit(Output("quality", source), rows, targets, ridge)


def test_sources_count_by_the_root_of_their_labels_in_units_of_their_spread() -> None:
    sources = ["big"] * 1600 + ["small"] * 100
    fits = [cell("big", np.arange(1600), 0.5), cell("small", np.arange(1600, 1700), 0.1)]

    def parts(share: dict[str, float], power: float) -> float:
        """How much more the large source counts when both are predicted by their mean."""
        big, small = label_weights(fits, sources, share, power)
        assert big * 1600 * 0.25 + small * 100 * 0.01 == pytest.approx(1700), "of mean 1 per label"
        return (big * 1600 * 0.25) / (small * 100 * 0.01)

    assert parts({}, 0.5) == pytest.approx(4)
    assert parts({}, 0) == pytest.approx(1)
    assert parts({}, 1) == pytest.approx(16)
    assert parts({"small": 2.0}, 0.5) == pytest.approx(2)


def test_the_head_starts_as_it_was_fitted_and_lower_layers_learn_slower(tmp_path: Path) -> None:
    body = random_model(tiny_llama_config(32, context=64), scale=0.05).model.eval()
    readout = Readout("sum+last", (0, 1, 2))
    ids = torch.randint(4, 32, (40, 12), generator=torch.Generator().manual_seed(0))
    mask, control = torch.ones_like(ids), torch.tensor([1, 2])
    with torch.no_grad():
        states = body(input_ids=ids, output_hidden_states=True).hidden_states
        features = readout.read(states, ids, mask, control)
    labels = (2 + features[:, 0] / features[:, 0].std()).numpy()[:, None].astype(np.float64)
    fitted = fit_all(features.numpy(), labels, SCHEMA, ["a"] * 40, list(map(str, range(40))), {})
    model = Headed(body, readout, [1, 2], features.numpy(), fitted.fits, [1.0])
    with torch.no_grad():
        outputs = model({"input_ids": ids}, ids, mask, None)
    wanted, _ = fitted.head(readout)(features)
    torch.testing.assert_close(outputs, wanted, atol=2e-4, rtol=1e-4)
    rates = {id(p): group["lr"] for group in model.parameter_groups(1e-3, 0.01) for p in group["params"]}
    assert rates[id(model.weight)] > rates[id(body.norm.weight)] == pytest.approx(1e-3)
    assert rates[id(body.layers[0].mlp.up_proj.weight)] < rates[id(body.layers[1].mlp.up_proj.weight)]
    assert rates[id(body.embed_tokens.weight)] < rates[id(body.layers[0].mlp.up_proj.weight)]
    assert len(rates) == len(list(model.parameters())), "each is in exactly one group"

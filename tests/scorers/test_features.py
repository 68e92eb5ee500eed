"""What is read of an encoder, against the plain code that the model card shows; the head's file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from steerlm.scorers.features import Readout, last_response
from steerlm.scorers.heads import HEAD_FILE, Head, Output, load_head

CONTROL = torch.tensor([1, 2, 3])


def test_the_response_is_the_last_run_without_markup() -> None:
    ids = torch.tensor([[1, 5, 6, 2, 7, 8, 3, 0], [1, 5, 2, 9, 9, 4, 3, 3], [1, 2, 3, 0, 0, 0, 0, 0]])
    text = (ids != 0) & ~torch.isin(ids, CONTROL)
    wanted = [[0, 0, 0, 0, 1, 1, 0, 0], [0, 0, 0, 1, 1, 1, 0, 0], [0] * 8]
    assert last_response(text).int().tolist() == wanted


def test_features_are_unit_means_of_the_response_and_its_lengths() -> None:
    ids = torch.tensor([[1, 5, 2, 7, 8, 7, 3], [1, 2, 9, 3, 0, 0, 0]])
    mask = (ids != 0).long()
    states = list(torch.randn(4, 2, 7, 6, generator=torch.Generator().manual_seed(0)))
    found = Readout("mean", (1, 3)).read(states, ids, mask, CONTROL)
    assert found.shape == (2, 2 * 6 + 4)
    for row, places in ((0, [3, 4, 5]), (1, [2])):
        means = [states[layer][row, places].mean(dim=0) for layer in (1, 3)]
        expected = torch.cat([mean / mean.norm() for mean in means])
        torch.testing.assert_close(found[row, :12], expected)
    assert found[0, 12:].tolist() == pytest.approx([np.log(4), np.log(8), np.log(4), 2 / 3])
    assert found[1, 12:].tolist() == pytest.approx([np.log(2), np.log(5), np.log(4), 1])
    first = Readout("cls", (3,)).read(states, ids, mask, CONTROL)
    torch.testing.assert_close(first[:, :6], torch.nn.functional.normalize(states[3][:, 0], dim=-1))


def test_the_pooling_is_what_the_encoder_s_own_configuration_says(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "num_hidden_layers": 12}))
    assert Readout.of(str(tmp_path)) == Readout("mean+sum", (6, 8, 10, 12))
    (tmp_path / "1_Pooling").mkdir()
    (tmp_path / "1_Pooling" / "config.json").write_text(json.dumps({"pooling_mode_cls_token": True}))
    assert Readout.of(str(tmp_path)).pooling == "cls+sum"


def test_of_a_decoder_sums_and_the_last_token_are_read_in_as_many_layers_as_can_be_solved_for(tmp_path: Path) -> None:
    def of(hidden: int, depth: int) -> Readout:
        shape = {"model_type": "llama", "num_hidden_layers": depth, "hidden_size": hidden}
        (tmp_path / "config.json").write_text(json.dumps(shape))
        return Readout.of(str(tmp_path), causal=True)

    assert of(640, 18) == Readout("sum+last", (0, 6, 12, 18))
    assert of(128, 3) == Readout("sum+last", (0, 1, 2, 3))
    assert of(4096, 32) == Readout("sum+last", (32,))
    ids = torch.tensor([[1, 5, 2, 7, 8, 7, 3], [1, 2, 9, 3, 0, 0, 0]])
    states = {layer: torch.randn(2, 7, 6, generator=torch.Generator().manual_seed(layer)) for layer in (0, 2)}
    found = Readout("sum+last", (0, 2)).read(states, ids, (ids != 0).long(), CONTROL)
    for row, places in ((0, [3, 4, 5]), (1, [2])):
        sums = [states[layer][row, places].sum(dim=0) for layer in (0, 2)]
        torch.testing.assert_close(found[row, :18], torch.cat([*sums, states[2][row, (6, 3)[row]]]))


def test_a_head_comes_back_from_its_file(tmp_path: Path) -> None:
    outputs = (Output("quality"), Output("quality", "usr"), Output("lang", None, "en"))
    torch.manual_seed(0)
    head = Head(
        outputs, torch.randn(3, 8), torch.randn(3), torch.randn(3, 8), torch.zeros(3), torch.full((3,), 0.1),
        Readout("mean", (3, 6)),
    )  # fmt: skip
    (tmp_path / HEAD_FILE).write_bytes(head.to_bytes())
    again = load_head(tmp_path)
    assert again is not None
    assert (again.outputs, again.readout) == (outputs, Readout("mean", (3, 6)))
    features = torch.randn(5, 8)
    for mine, theirs in zip(head(features), again(features), strict=True):
        assert torch.equal(mine, theirs)
    assert head(features)[1].min() >= 0.1
    assert load_head(tmp_path / "nowhere") is None

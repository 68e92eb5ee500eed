from __future__ import annotations

import json
from pathlib import Path

import pytest

from steerlm.errors import UserError
from steerlm.storage.claims import claim, digest_of, digest_of_file


def answers(folder: Path) -> dict[str, Path]:
    return {name: folder / f"{name}.jsonl" for name in ("train", "validation")}


def test_outputs_of_other_inputs_are_replaced_and_the_others_stay(tmp_path):
    outputs = answers(tmp_path)
    claim(tmp_path / "inputs.json", {"train": 1, "validation": 1}, otherwise="replace", outputs=outputs)
    for path in outputs.values():
        path.write_text("done")
    half = tmp_path / "train.jsonl.partial"
    half.write_text("half")
    claim(tmp_path / "inputs.json", {"train": 2, "validation": 1}, otherwise="replace", outputs=outputs)
    assert [outputs["train"].exists(), half.exists(), outputs["validation"].read_text()] == [False, False, "done"]
    assert json.loads((tmp_path / "inputs.json").read_text()) == {"train": 2, "validation": 1}


def test_what_nobody_recorded_is_nobodys(tmp_path):
    outputs = answers(tmp_path)
    outputs["train"].write_text("of whom?")
    claim(tmp_path / "inputs.json", {"train": 1}, otherwise="replace", outputs={"train": outputs["train"]})
    assert not outputs["train"].exists()


def test_equal_inputs_leave_everything_as_it_is(tmp_path):
    outputs = answers(tmp_path)
    for _ in range(2):
        claim(tmp_path / "inputs.json", {"train": [1, {"a": None}]}, otherwise="refuse", outputs=outputs)
        assert outputs["train"].exists() == (tmp_path / "seen").exists()
        outputs["train"].write_text("done")
        (tmp_path / "seen").touch()


def test_hours_of_work_are_refused_by_the_names_of_what_differs(tmp_path):
    model = tmp_path / "model"
    claim(tmp_path / "inputs.json", {"data": 1, "seed": 0}, otherwise="refuse", outputs={"data": model})
    model.write_text("hours")
    with pytest.raises(UserError, match=r"holds a bootstrap with other inputs \(different: seed\); choose another"):
        claim(tmp_path / "inputs.json", {"data": 1, "seed": 1}, otherwise="refuse", holds="a bootstrap")
    assert model.read_text() == "hours"
    assert json.loads((tmp_path / "inputs.json").read_text())["seed"] == 0


def test_digests(tmp_path):
    assert digest_of("a", ["b"]) != digest_of("a", "b")
    (tmp_path / "file").write_bytes(b"abc")
    assert digest_of_file(tmp_path / "file").startswith("ba7816bf8f01cfea")  # FIPS 180-2, appendix B.1
    with pytest.raises(UserError, match="no such file"):
        digest_of_file(tmp_path / "missing")

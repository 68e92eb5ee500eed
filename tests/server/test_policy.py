"""The policy file: what it may say, what is refused, the shipped presets."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from steerlm.attributes import HELPSTEER, OASST, PAPER, STEERLM, Attribute, AttributeSchema
from steerlm.errors import UserError
from steerlm.server.gate import load_keys
from steerlm.server.policy import Limits, Lock, Policy, load_policy, shipped_presets


def write(tmp_path: Path, policy: Any) -> Path:
    path = tmp_path / "policy.yaml"
    path.write_text(yaml.safe_dump(policy), encoding="utf-8")
    return path


def load(tmp_path: Path, policy: Any, schema: AttributeSchema = STEERLM, keys: list[str] | None = None) -> Policy:
    return load_policy(write(tmp_path, policy), schema, keys or [])


def test_no_policy_locks_nothing() -> None:
    policy = load_policy(None, STEERLM, [])
    assert policy.locks(None) == {}
    assert policy.limits.max_samples == 16


def test_what_users_may_not_set_is_locked_unless_the_policy_opens_it(tmp_path: Path) -> None:
    schema = AttributeSchema((Attribute("humor"), Attribute("toxicity", best="min", user_settable=False)))
    assert load_policy(None, schema, []).locks(None) == {"toxicity": Lock(0, 0)}
    assert load(tmp_path, {"attributes": {"toxicity": {}}}, schema).locks(None) == {}
    assert load(tmp_path, {"attributes": {"toxicity": {"maximum": 2}}}, schema).locks(None) == {"toxicity": Lock(0, 2)}


def test_a_key_s_entry_replaces_the_general_one(tmp_path: Path) -> None:
    raw = {
        "attributes": {"toxicity": {"fixed": 0}, "humor": {"maximum": 2}},
        "keys": {"a": {"attributes": {"toxicity": {}}}, "b": {"attributes": {"humor": {"fixed": 1}}}},
    }
    policy = load(tmp_path, raw, keys=["a", "b", "c"])
    assert policy.locks("a") == {"humor": Lock(0, 2)}
    assert policy.locks("b") == {"toxicity": Lock(0, 0), "humor": Lock(1, 1)}
    assert policy.locks("c") == policy.locks(None) == {"toxicity": Lock(0, 0), "humor": Lock(0, 2)}


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        ([], "mapping"),
        ({"attribute": {}}, "did you mean 'attributes'"),
        ({"attributes": {"humour": {}}}, "did you mean 'humor'"),
        ({"attributes": {"humor": {"fix": 1}}}, "did you mean 'fixed'"),
        ({"attributes": {"humor": {"fixed": 5}}}, "humor: 5 is not an integer from 0 to 4"),
        ({"attributes": {"humor": {"fixed": True}}}, "fixed"),
        ({"attributes": {"humor": {"minimum": 3, "maximum": 2}}}, "no range"),
        ({"attributes": {"humor": {"maximum": 5}}}, "no range"),
        ({"attributes": {"humor": {"fixed": 1, "maximum": 2}}}, "bounds do not go with"),
        ({"attributes": {"humor": {"hidden": True, "maximum": 2}}}, "bounds do not go with"),
        ({"keys": {"nobody": {}}}, "no API key has this name"),
        ({"keys": {"team": {"attributes": {"humor": {"fixed": 9}}}}}, "keys.team"),
        ({"presets": {"x": {"attributes": {"humour": 1}}}}, r"presets\.x.*did you mean 'humor'"),
        ({"presets": {"x": {"attributes": {"humor": 7}}}}, r"presets\.x"),
        ({"presets": {"x": {"attributes": {}, "guidance": {"wit": 1.0}}}}, r"presets\.x"),
        (
            {"presets": {"x": {"attributes": {}, "guidance": {"humor": 10.5}}}},
            r"presets\.x: a strength .* 0 to 10, got 10\.5",
        ),
        ({"presets": {"x": {"attributes": {}, "guidance": {"humor": -1.0}}}}, r"presets\.x: a strength"),
        ({"presets": {"dry, short": {"attributes": {"humor": 0}}}}, "without commas"),
        ({"presets": {"": {"attributes": {"humor": 0}}}}, "cannot stand in"),
        ({"limits": {"max_samples": 0}}, "max_samples"),
        ({"limits": {"max_sample": 1}}, "did you mean 'max_samples'"),
    ],
)
def test_mistakes(tmp_path: Path, raw: Any, message: str) -> None:
    with pytest.raises(UserError, match=message):
        load(tmp_path, raw, keys=["team"])


def test_yaml_that_is_none(tmp_path: Path) -> None:
    path = tmp_path / "policy.yaml"
    path.write_text("attributes: [", encoding="utf-8")
    with pytest.raises(UserError, match="malformed YAML"):
        load_policy(path, STEERLM, [])
    path.write_text("", encoding="utf-8")
    assert load_policy(path, STEERLM, []).locks(None) == {}


def test_files_that_are_no_text(tmp_path: Path) -> None:
    path = tmp_path / "utf16.txt"
    path.write_text("presets: {}", encoding="utf-16")
    for read in (lambda path: load_policy(path, STEERLM, []), load_keys):
        with pytest.raises(UserError, match=r"utf16\.txt: not UTF-8"):
            read(path)
        with pytest.raises(UserError, match="no such file"):
            read(tmp_path / "none")


@pytest.mark.parametrize("schema", [OASST, HELPSTEER, STEERLM, PAPER])
def test_shipped_presets_fit_the_model(schema: AttributeSchema) -> None:
    presets = shipped_presets(schema)
    assert {"teacher", "support", "plain-language"} <= set(presets)
    for preset in presets.values():
        assert schema.validate(preset.attributes)
        assert preset.description
    assert any(name.startswith("game-") for name in presets) or schema is HELPSTEER
    if "humor" in schema:
        assert presets["game-jester"].attributes["humor"] == schema["humor"].maximum
        assert presets["teacher"].attributes["humor"] == 0


def test_a_preset_of_the_file_replaces_a_shipped_one(tmp_path: Path) -> None:
    raw = {"presets": {"teacher": {"attributes": {"humor": 4}}}}
    assert load(tmp_path, raw).presets["teacher"].attributes == {"humor": 4}


def test_a_preset_that_a_lock_moves_is_told_at_the_start(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    raw = {"attributes": {"humor": {"fixed": 2}}, "presets": {"joker": {"attributes": {"humor": 4, "verbosity": 4}}}}
    load(tmp_path, raw)
    [told] = caplog.messages
    assert "presets.joker: humor 4 does not come into force, because the attribute is fixed at 2 by its lock" in told
    caplog.clear()
    load(tmp_path, {**raw, "attributes": {"humor": {"minimum": 2}}})
    assert caplog.messages == []


def test_a_lock_moves_a_value_to_the_nearest() -> None:
    humor, lang = Attribute("humor"), Attribute("lang", "categorical", categories=("en", "de", "fr"))
    assert [Lock(1, 3).nearest(humor, value) for value in (0, 1, 2.5, 3, 4)] == [1, 1, 2.5, 3, 3]
    assert [Lock(1, 3).allows(humor, value) for value in (0.9, 1, 3, 3.1)] == [False, True, True, False]
    assert [Lock(1, 1).nearest(lang, value) for value in ("en", "de", "fr")] == ["de", "de", "de"]


def test_the_page_names_every_limit_with_its_default() -> None:
    page = (Path(__file__).parents[2] / "docs" / "stages" / "serve.md").read_text(encoding="utf-8")
    [told] = [line for line in page.splitlines() if line.startswith("Limits, with their defaults")]
    for name, field in Limits.model_fields.items():
        default = "1 MiB" if name == "max_body_bytes" else f"{field.default:g}"
        assert f"`{name}` {default}" in told

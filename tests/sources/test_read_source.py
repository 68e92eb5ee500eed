"""What all importers share: ids, groups, limits, errors, dropped labels."""

from __future__ import annotations

import json
import logging
import re
from pathlib import Path
from typing import get_args

import pytest

from steerlm.attributes import OASST, STEERLM, Attribute, AttributeSchema
from steerlm.config import SourceConfig, SourceFormat
from steerlm.errors import UserError
from steerlm.sources import IMPORTERS, read_source
from steerlm.sources.draft import normalise
from steerlm.sources.rows import BadRecords


def test_every_format_of_the_recipe_has_an_importer() -> None:
    assert set(IMPORTERS) == set(get_args(SourceFormat))


def alpaca(path: Path, *instructions: str) -> SourceConfig:
    path.write_text("".join(json.dumps({"instruction": i, "output": "x"}) + "\n" for i in instructions))
    return SourceConfig(name="s", format="alpaca", path=path)


def test_a_bad_record_stops_the_import_unless_they_are_skipped(tmp_path: Path) -> None:
    source = alpaca(tmp_path / "a.jsonl", "one", "", "three")
    conversations = read_source(source, STEERLM)
    assert next(conversations).id == "s/0"
    with pytest.raises(UserError) as error:
        next(conversations)
    assert str(error.value) == (
        f"{tmp_path / 'a.jsonl'}:2: message 0 (user) is empty "
        "(--skip-bad-records counts and lists such records instead)"
    )
    bad = BadRecords()
    assert [c.id for c in read_source(source, STEERLM, bad)] == ["s/0", "s/2"]  # the position, whatever is skipped
    assert bad.count == 1


def test_max_records_bounds_what_is_read(tmp_path: Path) -> None:
    source = alpaca(tmp_path / "a.jsonl", "one", "two", "")
    limited = source.model_copy(update={"max_records": 2})
    assert [c.id for c in read_source(limited, STEERLM)] == ["s/0", "s/1"]


def test_dropped_labels_are_logged_where_nobody_counts_them(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = tmp_path / "a.jsonl"
    path.write_text(json.dumps({"prompt": "a", "response": "b", "verbosity": 1, "coherence": 2}) + "\n")
    with caplog.at_level(logging.WARNING):
        list(read_source(SourceConfig(name="tea", format="helpsteer", path=path), OASST))
    assert "tea: labels left out because the schema has no such attribute: coherence: 1, verbosity: 1" in caplog.text


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("What's up?", "what s  UP"),
        ("Straße\n1", "STRASSE 1!"),
        ("a_b", "A b"),
        ("???", "???"),
        ("日本、茶", "日本 茶"),
    ],
)
def test_prompts_are_compared_without_case_punctuation_and_space(text: str, same: str) -> None:
    assert normalise(text) == normalise(same) != ""


def test_different_prompts_stay_different() -> None:
    assert len({normalise(text) for text in ("tea", "teas", "te a", "???", "!", "茶", "")}) == 7


@pytest.mark.parametrize(
    ("source_format", "attribute", "piece"),
    [
        ("alpaca", "quality", "format alpaca compares no responses: valid: hh_rlhf, oasst"),
        ("hh_rlhf", "qualty", "did you mean 'quality'?"),
        ("hh_rlhf", "length", "a measure says what 'length' is: name an attribute that people rate"),
        ("oasst", "lang", "'lang' is categorical"),
    ],
)
def test_a_comparison_rates_an_attribute_that_people_can_rate(
    tmp_path: Path, source_format: SourceFormat, attribute: str, piece: str
) -> None:
    schema = AttributeSchema(
        (
            Attribute("quality"),
            Attribute("length", measure="words"),
            Attribute("lang", kind="categorical", categories=("en", "de")),
        )
    )
    source = SourceConfig(name="s", format=source_format, path=tmp_path / "x.jsonl", preference=attribute)
    with pytest.raises(UserError, match=re.escape(piece)):
        list(read_source(source, schema))

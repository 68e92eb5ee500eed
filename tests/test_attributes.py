"""The attribute schema: scales, order, text form, and what it refuses."""

from __future__ import annotations

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.attributes import (
    HELPSTEER,
    OASST,
    PAPER,
    PRESETS,
    STEERLM,
    Attribute,
    AttributeSchema,
    ClassifierLabel,
    is_signature,
)
from steerlm.errors import UserError

LANG = Attribute("lang", kind="categorical", categories=("en", "de", "zh-CN"))
MIXED = AttributeSchema((Attribute("quality", best="max"), LANG, Attribute("effort", minimum=1, maximum=5)))


def test_presets_have_the_published_names_order_and_ranges() -> None:
    assert OASST.names == ("quality", "toxicity", "humor", "creativity")
    assert HELPSTEER.names == ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
    assert STEERLM.names == OASST.names + HELPSTEER.names
    assert PAPER.names == (
        "quality", "toxicity", "humor", "creativity", "violence", "helpfulness", "not_appropriate",
    )  # fmt: skip
    assert {(a.minimum, a.maximum) for a in STEERLM} == {(0, 4)}
    assert {(a.minimum, a.maximum) for a in PAPER} == {(0, 9)}
    assert all(attribute.description for schema in PRESETS.values() for attribute in schema)


def test_defaults_are_the_papers_setting() -> None:
    # section 3.4: quality and helpfulness at their maximum, the rest at 0
    assert PAPER.defaults == {
        "quality": 9, "toxicity": 0, "humor": 0, "creativity": 0, "violence": 0, "helpfulness": 9, "not_appropriate": 0,
    }  # fmt: skip
    # complexity 2, verbosity 2 were judged better than 4, 4
    assert HELPSTEER.defaults == {
        "helpfulness": 4, "correctness": 4, "coherence": 4, "complexity": 2, "verbosity": 2,
    }  # fmt: skip


def test_a_default_follows_from_the_best_end_or_the_first_level() -> None:
    assert Attribute("a", best="max", maximum=7).default_value == 7
    assert Attribute("a", best="min", minimum=2).default_value == 2
    assert Attribute("a", minimum=3, maximum=5).default_value == 3
    assert Attribute("a", best="max", default=1).default_value == 1
    assert Attribute("a", measure="words").default_value == 2
    assert Attribute("a", measure="words", best="max").default_value == 4
    assert Attribute("a", kind="categorical", categories=("en", "de"), measure="language").default_value == "en"
    assert LANG.default_value == "en"
    assert LANG.best_value is None


def test_text_form_is_the_papers() -> None:
    values = {"helpfulness": 5, "quality": 6, "toxicity": 0, "humor": 9, "creativity": 0, "violence": 0}
    text = "quality:6,toxicity:0,humor:9,creativity:0,violence:0,helpfulness:5,not_appropriate:0"
    assert PAPER.format({**values, "not_appropriate": 0}) == text
    assert PAPER.format({"humor": 1, "quality": 2}) == "quality:2,humor:1"  # the schema's order, the rest left out
    assert PAPER.parse(text) == {**values, "not_appropriate": 0}
    assert PAPER.parse("") == {}
    assert MIXED.parse("quality:3,lang:zh-CN") == {"quality": 3, "lang": "zh-CN"}


@pytest.mark.parametrize(
    ("text", "piece"),
    [
        ("quality:5", "quality: 5 is not an integer from 0 to 4"),
        ("quality:-1", "'-1'"),
        ("quality:01", "'01'"),
        ("quality:+1", "'+1'"),
        ("quality:1.0", "'1.0'"),
        ("quality:٣", "'٣'"),
        ("quality:" + "9" * 5000, "is not an integer"),
        ("quality: 1", "' 1'"),
        (" quality:1", "unknown attribute ' quality'"),
        ("quality:1, effort:1", "unknown attribute ' effort'"),
        ("quality", "not of the form name:value"),
        ("quality:1,", "not of the form name:value"),
        ("qualty:1", "did you mean 'quality'"),
        ("effort:1,quality:1", "out of order"),
        ("quality:1,quality:1", "double"),
        ("lang:EN", "'EN' is not one of en, de, zh-CN"),
        ("effort:0", "from 1 to 5"),
        ("quality:1\n", "'1\\n'"),
    ],
)
def test_parsing_is_strict(text: str, piece: str) -> None:
    with pytest.raises(UserError) as error:
        MIXED.parse(text)
    assert piece in str(error.value)


@pytest.mark.parametrize(
    ("values", "piece"),
    [
        ({"quality": 5}, "quality: 5 is not an integer from 0 to 4"),
        ({"quality": 2.0}, "2.0"),
        ({"quality": True}, "True"),
        ({"quality": "2"}, "'2'"),
        ({"quality": float("nan")}, "nan is not a finite number"),
        ({"quality": float("inf")}, "inf is not a finite number"),
        ({"quality": None}, "None"),
        ({"lang": 0}, "0 is not one of en, de, zh-CN"),
        ({"humour": 1}, "unknown attribute 'humour'"),
    ],
)
def test_validation_refuses_what_is_off_the_scale(values: dict[str, Any], piece: str) -> None:
    with pytest.raises(UserError) as error:
        MIXED.validate(values)
    assert piece in str(error.value)


def test_validation_returns_schema_order() -> None:
    assert list(MIXED.validate({"effort": 2, "quality": 1})) == ["quality", "effort"]


@pytest.mark.parametrize("rating", [float("nan"), float("inf"), -0.1, 4.1, True, "3", None], ids=repr)
def test_ratings_are_finite_numbers_in_range(rating: object) -> None:
    with pytest.raises(UserError, match="quality"):
        MIXED["quality"].check_rating(rating)
    assert MIXED["quality"].check_rating(3) == 3.0
    with pytest.raises(UserError, match="categorical"):
        LANG.check_rating(1)


@pytest.mark.parametrize(
    ("fields", "piece"),
    [
        ({"name": "Quality"}, "'Quality'"),
        ({"name": "a:b"}, "'a:b'"),
        ({"name": "a,b"}, "'a,b'"),
        ({"name": 3}, "3"),
        ({"name": "a", "minimum": 4}, "4..4"),
        ({"name": "a", "minimum": -1}, "-1..4"),
        ({"name": "a", "maximum": 4.0}, "4.0"),
        ({"name": "a", "maximum": "4"}, "'4'"),
        ({"name": "a", "maximum": True}, "True"),
        ({"name": "a", "default": 7}, "7"),
        ({"name": "a", "best": "high"}, "'high'"),
        ({"name": "a", "user_settable": "no"}, "'no'"),
        ({"name": "a", "kind": "nominal"}, "'nominal'"),
        ({"name": "a", "kind": "ordinal", "categories": ["x", "y"]}, "categorical"),
        ({"name": "a", "categories": ["x"]}, "two or more"),
        ({"name": "a", "categories": ["x", "x"]}, "distinct"),
        ({"name": "a", "categories": ["x", "y:z"]}, "'y:z'"),
        ({"name": "a", "categories": ["x", "y,z"]}, "'y,z'"),
        ({"name": "a", "categories": ["x", False]}, "quote it"),
        ({"name": "a", "categories": "en"}, "must be a list"),
        ({"name": "a", "categories": ["x", "y"], "best": "max"}, "no best end"),
        ({"name": "a", "categories": ["x", "y"], "default": "z"}, "'z'"),
        ({"name": "a", "maximun": 9}, "did you mean 'maximum'"),
        ({"maximum": 9}, "no name"),
        ("quality", "mapping"),
    ],
)
def test_a_wrong_attribute_is_refused_with_its_name_and_value(fields: Any, piece: str) -> None:
    with pytest.raises(UserError) as error:
        AttributeSchema.from_dict([fields])
    assert piece in str(error.value)


def test_a_schema_has_distinct_attributes_and_at_least_one() -> None:
    with pytest.raises(UserError, match="at least one"):
        AttributeSchema(())
    with pytest.raises(UserError, match="'quality' stands twice"):
        AttributeSchema((Attribute("quality"), Attribute("quality", maximum=9)))
    toxic, insult = (ClassifierLabel("some/model", label) for label in ("toxic", "insult"))
    with pytest.raises(UserError, match="'rude' and 'harsh' are both the label 'toxic' of classifier some/model"):
        AttributeSchema((Attribute("rude", classifier=toxic), Attribute("harsh", maximum=9, classifier=toxic)))
    AttributeSchema((Attribute("rude", classifier=toxic), Attribute("harsh", classifier=insult)))


def test_lookup_offers_the_nearest_name() -> None:
    assert "humor" in OASST
    assert "verbosity" not in OASST
    assert OASST["humor"].name == "humor"
    with pytest.raises(UserError, match="did you mean 'humor'"):
        OASST["humour"]
    with pytest.raises(UserError, match="valid: quality, toxicity, humor, creativity"):
        OASST["verbosity"]
    assert AttributeSchema.preset("Oasst") is OASST
    with pytest.raises(UserError, match="did you mean 'helpsteer'"):
        AttributeSchema.preset("helpster")


def test_signature_tells_names_order_and_scale() -> None:
    assert MIXED.signature == "quality:0-4,lang:en|de|zh-CN,effort:1-5"
    swapped = AttributeSchema(MIXED.attributes[::-1])
    described = AttributeSchema((dataclasses.replace(MIXED["quality"], description="x"), *MIXED.attributes[1:]))
    assert swapped.signature != MIXED.signature
    assert described.signature == MIXED.signature
    MIXED.require_same(described.signature, "the model", "data.jsonl:1")


def test_a_mismatch_names_both_sides() -> None:
    with pytest.raises(UserError) as error:
        OASST.require_same(PAPER.signature, "checkpoint models/a", "data.jsonl:7")
    message = str(error.value)
    for piece in ("checkpoint models/a", "data.jsonl:7", OASST.signature, PAPER.signature, "(steerlm prepare)"):
        assert piece in message


@pytest.mark.parametrize(
    ("score", "level"), [(-3.0, 1), (1.49, 1), (1.5, 2), (2.5, 3), (4.51, 5), (99.0, 5)]
)  # fmt: skip
def test_scores_are_clamped_and_rounded_half_up(score: float, level: int) -> None:
    assert MIXED["effort"].round(score) == level


@given(st.floats(0, 1), st.integers(0, 5), st.integers(1, 9))
def test_unit_scale_round_trip(unit: float, minimum: int, width: int) -> None:
    attribute = Attribute("a", minimum=minimum, maximum=minimum + width)
    assert attribute.to_unit(attribute.from_unit(unit)) == pytest.approx(unit, abs=1e-12)
    assert attribute.from_unit(0) == minimum
    assert attribute.from_unit(1) == minimum + width


@pytest.mark.parametrize("schema", [*PRESETS.values(), MIXED], ids=lambda schema: schema.signature[:12])
def test_dict_round_trip(schema: AttributeSchema) -> None:
    assert AttributeSchema.from_dict(schema.to_dict()) == schema
    assert AttributeSchema.from_dict([{"name": "lang", "categories": ["en", "de"]}])["lang"].kind == "categorical"


def test_words_at_the_ends_of_a_scale_are_kept_and_change_no_signature() -> None:
    row = {"name": "warmth", "low": "cold and curt", "high": "warm and caring"}
    schema = AttributeSchema.from_dict([row])
    assert (schema["warmth"].low, schema["warmth"].high) == ("cold and curt", "warm and caring")
    assert AttributeSchema.from_dict(schema.to_dict()) == schema
    assert schema.to_dict() == [row]
    assert schema.signature == "warmth:0-4" == AttributeSchema.from_dict([{"name": "warmth"}]).signature
    for wrong, piece in (
        ({"name": "a", "low": 3}, "low is a few words on one line, got 3"),
        ({"name": "a", "high": "x\ny"}, "high is a few words on one line"),
        ({"name": "a", "categories": ["b", "c"], "low": "x"}, "a categorical attribute has no low and no high end"),
    ):
        with pytest.raises(UserError, match=piece):
            AttributeSchema.from_dict([wrong])


@pytest.mark.parametrize(
    "schema", [OASST, PAPER, AttributeSchema((Attribute("lang", "categorical", categories=("en", "a+b")),))]
)
def test_signatures_are_told_from_other_text(schema: AttributeSchema) -> None:
    assert is_signature(schema.signature)
    for other in ("v1.0", "quality", "quality:4", "quality:0-4,", "Quality:0-4", "quality:0-4, humor:0-4", 3, None, {}):
        assert not is_signature(other)

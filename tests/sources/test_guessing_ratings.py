"""Which columns rate the reply, and what is said of those that do not."""

from __future__ import annotations

import re
from collections.abc import Sequence

import pytest

from steerlm.errors import UserError
from steerlm.sources.guessing_ratings import Ratings, rating_columns


def look(name: str, values: Sequence[object], dials: Sequence[str] = (), **given: str) -> Ratings:
    rows = [{name: values[i % len(values)]} for i in range(60)]
    return rating_columns(rows, [name], {f"rating.{dial}": column for dial, column in given.items()}, dials)


def test_a_column_of_the_name_of_a_dial_that_people_rate_is_its_ratings() -> None:
    assert look("Customer Satisfaction", [1, 5]).rated == ()
    [rated] = look("Customer Satisfaction", [1, 5], ["customer_satisfaction"]).rated
    assert (rated.column, rated.attribute.minimum, rated.attribute.maximum) == ("Customer Satisfaction", 1, 5)
    rows = [{"funny": i % 5, "satisfaction": 1 + i % 5, "quality": i % 5} for i in range(60)]
    found = rating_columns(rows, list(rows[0]), {"rating.humor": "funny"}, ["satisfaction"])
    assert [rated.attribute.name for rated in found.rated] == ["humor", "satisfaction"], "and no third one by its name"


@pytest.mark.parametrize(("values", "ends"), [(["1.0", "2.0", "4.5"], (1, 5)), ([0.02, 1.5, 4.98], (0, 5))])
def test_ratings_between_the_levels_count(values: list[object], ends: tuple[int, int]) -> None:
    [rated] = look("quality", values).rated
    assert (rated.attribute.minimum, rated.attribute.maximum) == ends


@pytest.mark.parametrize(
    ("name", "values", "words"),
    [
        ("stars", [10, 20, 50], "numbers from 10 to 50, but .* at most 10: divide each by 10"),
        ("helpfulness", list(range(101)), "numbers from 0 to 59, .*: divide each by 10 in the data"),
        ("helpfulness", list(range(0, 300, 5)), "numbers from 0 to 295, .*: divide each by 50 in the data"),
        ("quality", ["-1", "0", "1"], "numbers from -1 to 1, .*: add 1 to each"),
        ("quality", [0.1, 0.7], "numbers from 0.1 to 0.7, .*: bring them onto such a scale"),
        ("quality", [3], "it always says 3"),
        (
            "quality_score",
            ["good", "bad", "ok"],
            "the words bad, good, ok; .* --columns rating.quality_score=",
        ),
        ("quality", ["very good", 3], "it holds 'very good'"),
        ("quality", [""], "it is empty"),
        ("scene", [1, 2], "whole numbers; if they rate the reply, say --columns rating.scene=scene"),
        ("The scene", [1, 2], "say --columns 'rating.the_scene=The scene'$"),
        ("tone", ["warm", "cold"], "the words cold, warm; for a dial of categories say"),
    ],
)
def test_what_is_not_used_is_named_with_what_to_do(name: str, values: list[object], words: str) -> None:
    found = look(name, values)
    assert found.rated == ()
    [unused] = found.unused
    assert unused.column == name
    assert re.search(words, unused.why)


@pytest.mark.parametrize("highest", [11, 30, 100, 105, 255, 1000])
def test_what_is_to_be_done_with_a_long_scale_makes_ratings(highest: int) -> None:
    values = [*range(highest, 0, -max(1, highest // 50)), 0]
    [unused] = look("helpfulness", values).unused
    by = re.search(r"divide each by (\d+) in the data", unused.why)
    assert by is not None
    [rated] = look("helpfulness", [value / int(by[1]) for value in values]).rated
    assert (rated.attribute.minimum, rated.share) == (0, 1)
    assert 4 <= rated.attribute.maximum <= 10
    with pytest.raises(UserError, match=f"rating.wit=helpfulness: numbers from 0 to {highest}, .*divide each by"):
        look("helpfulness", values, wit="helpfulness")


def test_what_does_not_look_like_ratings_is_passed_over() -> None:
    for name, values in (("price", [9.5, 10.0]), ("upvotes", [3, 470]), ("id", [1, 2]), ("note", ["It is so.", "No."])):
        assert look(name, values) == ((), ())

"""What the names of columns say."""

from __future__ import annotations

import pytest

from steerlm.sources.column_names import by_name, exchange_remedy, plain_name


@pytest.mark.parametrize(("column", "name"), [("Style rating", "style_rating"), ("5 stars!", "a_5_stars"), ("ß", "a")])
def test_names_of_columns_as_names_of_attributes(column: str, name: str) -> None:
    assert plain_name(column) == name


def test_a_whole_name_wins_over_its_first_or_last_word() -> None:
    assert by_name(["reply time", "The Reply", "reply"], ("answer", "reply")) == "reply"
    assert by_name(["The Reply", "replying"], ("answer", "reply")) == "The Reply"
    assert by_name(["replying"], ("reply",)) is None


def test_the_remedy_names_what_is_missing_and_only_where_names_tell_it() -> None:
    assert exchange_remedy(["player", "reply"]) == "--columns prompt=player,response=reply"
    assert exchange_remedy(["prompt", "reply"]) == "--columns response=reply"
    assert exchange_remedy(["prompt", "response"]) == exchange_remedy(["a", "reply"]) == ""

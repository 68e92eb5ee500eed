from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from steerlm.errors import UserError
from steerlm.studies.names import require_distinct_names, tidy_name

ALIKE = [
    ("ana", "Ana"),
    ("ana", "ana "),
    ("ana b", "ana  b"),
    ("ana b", "ana\u00a0b"),
    ("ana", "an\u200ba"),  # zero width space
    ("ana", "\u202eana"),  # right-to-left override
    ("ana", "аna"),  # Cyrillic
    ("ANA", "ΑΝΑ"),  # Greek
    ("ana", "ａｎａ"),  # full width
    ("José", "Jose\u0301"),
    ("ﬁn", "fin"),
    ("Il", "ll"),
    ("gpt-4o", "gpt-4O"),
    ("gpt-4o", "gpt-40"),
    ("org/model", "org_model"),
    ("ℎan", "han"),
    ("Ⅻ", "XII"),
]


@pytest.mark.parametrize(("one", "other"), ALIKE)
def test_names_that_look_alike_are_refused(one: str, other: str) -> None:
    for names in itertools.permutations((one, other)):
        with pytest.raises(UserError, match=r"two raters look alike: .*; say who"):
            require_distinct_names(names, "raters", "say who")
        with pytest.raises(UserError, match="two raters look alike"):
            require_distinct_names(names[:1], "raters", "say who", known=names[1:])


def test_the_odd_sign_is_named() -> None:
    with pytest.raises(UserError, match="CYRILLIC SMALL LETTER A"):
        require_distinct_names(["ana", "аna"], "systems", "x")


def test_names_that_differ_may_stand_together() -> None:
    names = [
        "ana",
        "anna",
        "José",
        "Jose",
        "sft",
        "sft-2",
        "sft_2",
        "Иван",
        "Ирина",
        "李",
        "季",
        "bootstrap",
        "v1",
        "v2",
    ]
    require_distinct_names(names, "systems", "x")
    require_distinct_names([], "systems", "x", known=["ana", "ana "])  # what is known already stands


def test_a_name_that_stands_twice_is_said_to() -> None:
    with pytest.raises(UserError, match="two systems are called 'a'; x"):
        require_distinct_names(["a", "b", "a"], "systems", "x")


@given(st.text(max_size=8))
def test_every_name_is_alike_to_itself_in_any_case_and_spacing(name: str) -> None:
    assert tidy_name(tidy_name(name)) == tidy_name(name)
    for other in (f" {name}", name + "\u200b"):
        with pytest.raises(UserError):
            require_distinct_names([name, other], "raters", "x")

from __future__ import annotations

import json
from pathlib import Path

import choix
import numpy as np
import pytest
from rich.console import Console

from steerlm.errors import UserError
from steerlm.scorers.llm.judge import Judgement, write_judgements
from steerlm.statistics.rankings import Match
from steerlm.studies.rate.results import read_matches, shown_matches, study_results
from steerlm.studies.rate.store import Study, read_answers, read_items
from steerlm.studies.rate.tables import print_results
from tests.studies.rate.studies import comparison, rating, vote


def printed(results: dict[str, object]) -> str:
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_results(results, console)
    console.file.close()
    return console.export_text()


@pytest.fixture
def voted(tmp_path: Path) -> Study:
    """Ana votes for the steered system on 9 of 12 prompts, ties on 2; ben always for the answer shown first."""
    study = comparison(tmp_path, num_prompts=12)
    for item in range(12):
        value = "second" if item < 9 else "tie" if item < 11 else "skip"
        vote(study, "ana", item, {"": value}, swapped=item % 2 == 0)
        vote(study, "ben", item, {"": "second" if item % 3 == 0 else "first"}, swapped=item % 3 == 0)
    return study


def test_a_comparison(voted: Study) -> None:
    results = study_results(voted)
    ana, ben = results["annotators"]
    assert (ana["name"], ana["answered"], ana["skipped"]) == ("ana", 11, 1)
    assert ana["ties"]["value"] == pytest.approx(2 / 11)
    # the second system, shown first on the even items
    assert ana["shown_first_wins"]["value"] == pytest.approx(5 / 11)
    assert ana["shown_second_wins"]["value"] == pytest.approx(4 / 11)
    assert ana["win_rates"]["steered"]["value"] == pytest.approx(10 / 11)
    assert ana["agrees_with_others"]["value"] == pytest.approx(3 / 11)
    assert ben["shown_first_wins"]["value"] == 1.0
    assert ben["shown_first_wins"]["low"] < 0.8
    assert results["people"]["matches"] == 23
    head = results["people"]["head_to_head"]["steered"]["plain"]
    assert (head["wins"], head["ties"], head["losses"]) == (9 + 4, 2, 8)
    assert "judge" not in results
    assert json.dumps(results)  # no NaN, no tuple keys
    text = printed(results)
    assert "Krippendorff's alpha, nominal" in text
    assert "100 % [74 %, 100 %]" in text


def test_bradley_terry_of_people_equals_choix(tmp_path: Path) -> None:
    study = comparison(tmp_path, num_prompts=20, systems=("a", "b", "c"))
    items = read_items(study)
    rng = np.random.default_rng(0)
    for item in range(len(items)):
        vote(study, "ana", item, {"": str(rng.choice(["first", "second"], p=[0.7, 0.3]))}, swapped=bool(item % 2))
    matches = shown_matches(items, read_answers(study))
    wins = [(m.first, m.second) if m.outcome == 1 else (m.second, m.first) for m in matches]
    strengths = choix.ilsr_pairwise(
        3, [("abc".index(winner), "abc".index(loser)) for winner, loser in wins], alpha=0, tol=1e-10
    )
    expected = 1000 + 400 / np.log(10) * (strengths - strengths.mean())
    people = study_results(study)["people"]
    found = [people["bradley_terry"][name]["value"] for name in "abc"]
    assert found == pytest.approx(expected, abs=1e-4)
    assert people["elo"]["a"]["value"] > people["elo"]["c"]["value"]
    assert people["bradley_terry"]["a"]["low"] < found[0] < people["bradley_terry"]["a"]["high"]


def test_the_judge_stands_beside_people(voted: Study) -> None:
    judge = [Match(f"p{i}", "steered", "plain", 1.0 if i < 9 else 0.0) for i in range(12)]
    judge += [Match(f"p{i}", "plain", "steered", 0.0 if i < 6 else 1.0) for i in range(12)]
    judge += [Match("elsewhere", "plain", "steered", 0.0), Match("p0", "plain", "other", 0.0)]
    results = study_results(voted, judge)
    assert results["judge"]["matches"] == 24
    assert results["judge"]["elo"].keys() == {"plain", "steered"}
    # both orders together: steered on 0-5, a tie on 6-8, plain from 9 on
    ana = 6
    ben = 2 + 2  # prompts 0 and 3 for steered, 10 and 11 for plain
    assert results["judge"]["agrees_with_people"]["value"] == pytest.approx((ana + ben) / 23)
    # equal numbers of games, because Elo spreads with them
    again = study_results(voted, [m for m in judge for _ in range(5)])
    assert again["judge"]["elo"]["steered"]["value"] == pytest.approx(
        results["judge"]["elo"]["steered"]["value"], abs=15
    )
    assert "judge Bradley-Terry" in printed(results)
    with pytest.raises(UserError, match=r"no verdict on any pair.*judge: x, y; people: .*steered"):
        study_results(voted, [Match("p0", "x", "y", 1.0)])


def test_verdicts_of_the_judge_are_read_in_either_form(tmp_path: Path) -> None:
    plain = tmp_path / "matches.jsonl"
    plain.write_text('{"prompt": "p", "first": "a", "second": "b", "outcome": 0.5, "note": "more"}\n')
    assert read_matches(plain) == [Match("p", "a", "b", 0.5)]
    judged = tmp_path / "judgements.jsonl"
    write_judgements(
        judged,
        [
            Judgement("p", 1, "pair-v2", "m", ("a", "b"), "[[B]]", outcome=0.0),
            Judgement("q", 1, "pair-v2", "m", ("a", "b"), "no idea", problem="no verdict"),
        ],
    )
    assert read_matches(judged) == [Match("p", "a", "b", 0.0)]
    for line, words in (
        ('{"prompt": "p"}', "needs prompt, first, second and outcome"),
        ('{"prompt": "p", "first": "a", "second": "b", "outcome": 0.4}', "got 0.4"),
        ('{"prompt": "p", "first": "a", "second": "a", "outcome": 1}', "two systems"),
        ("[1]", "must be a JSON object, got list"),
        ('{"question": "p"}', "judgement"),
    ):
        plain.write_text(line + "\n")
        with pytest.raises(UserError, match=words) as error:
            read_matches(plain)
        assert f"{plain}:1" in str(error.value)


def test_ratings(tmp_path: Path) -> None:
    study = rating(tmp_path, 8)
    for item in range(8):
        vote(study, "ana", item, {"humor": str(item % 5), "helpfulness": "9", "lang": "en", "": ""})
        vote(study, "ben", item, {"humor": str(max(0, item % 5 - 1)), "lang": "en" if item else "de", "": ""})
    vote(study, "eve", 0, {"humor": "4", "": ""})
    vote(study, "eve", 0, {"": "skip"})
    results = study_results(study)
    humor, helpfulness, lang = (results["attributes"][name] for name in ("humor", "helpfulness", "lang"))
    assert (humor["ratings"], humor["items"]) == (16, 8)
    assert humor["counts"] == {"0": 2 + 4, "1": 2 + 2, "2": 2 + 1, "3": 1 + 1, "4": 1}
    assert humor["mean"]["value"] == pytest.approx((13 + 7) / 16)
    assert 0.5 < humor["krippendorff_alpha"]["value"] < 1
    assert humor["krippendorff_alpha"]["low"] is not None
    assert humor["one_against_the_others"]["items"] == 8
    assert helpfulness["krippendorff_alpha"]["note"] == "no item has two or more annotators"
    assert "mean" not in lang
    assert lang["krippendorff_alpha"]["n"] == 8
    ana, ben, eve = results["annotators"]
    assert ana["levels_above_others"]["humor"]["value"] == pytest.approx(6 / 8)
    assert ben["levels_above_others"]["humor"]["value"] == pytest.approx(-6 / 8)
    assert (eve["answered"], eve["skipped"]) == (0, 1)
    assert [(row["attribute"], row["annotators"]) for row in results["pairs_of_annotators"]] == [
        ("humor", ["ana", "ben"]),
        ("lang", ["ana", "ben"]),
    ]
    text = printed(results)
    assert "+0.75" in text
    assert "no item has two or more annotators" in text
    with pytest.raises(UserError, match="--judge goes with a comparison"):
        study_results(study, [])


def test_too_few_votes_have_no_interval_and_say_why(tmp_path: Path) -> None:
    study = comparison(tmp_path, num_prompts=3)
    empty = study_results(study)
    assert empty["people"] == {"matches": 0, "elo": {}, "bradley_terry": {}, "head_to_head": {}}
    assert printed(empty)
    for item in range(3):
        vote(study, "ana", item, {"": "first"})
        vote(study, "ben", item, {"": "second" if item else "first"})
    results = study_results(study)
    for estimate in (*results["agreement"].values(), *results["people"]["elo"].values()):
        assert estimate["low"] is None
        assert "at least 5 are needed" in estimate["note"]
    text = printed(results)
    assert "at least 5 are needed" in text
    assert "[" not in text.replace("[/]", "")

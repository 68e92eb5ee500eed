from __future__ import annotations

import sqlite3
import stat
from pathlib import Path

import pytest

from steerlm.errors import UserError
from steerlm.studies.rate.items import Comparison
from steerlm.studies.rate.store import (
    annotators,
    authenticate,
    create_study,
    finished,
    invite,
    open_study,
    read_answers,
    read_item,
    read_items,
    record,
)
from tests.studies.rate.studies import SCHEMA, comparison, rating, vote


def test_a_study_reads_back_as_it_was_made(tmp_path: Path) -> None:
    study = comparison(tmp_path)
    assert open_study(study.folder) == study
    assert (study.kind, study.systems, study.num_items) == ("comparison", ("plain", "steered"), 6)
    items = read_items(study)
    assert [item.prompt for item in items] == [f"p{i}" for i in range(6)]
    assert read_item(study, 3) == items[3]
    assert isinstance(items[3], Comparison)
    other = rating(tmp_path / "other")
    assert open_study(other.folder).schema == SCHEMA
    assert other.kind == "rating"


def test_raters_whose_names_look_alike_are_one_person(tmp_path: Path) -> None:
    study = comparison(tmp_path)
    [ana] = invite(study, ["ana", "ana ", " ana"])
    assert ana.name == "ana"
    for alike in ("Ana", "аna", "ａｎａ"):
        with pytest.raises(UserError, match=r"two raters look alike: 'ana' and .*agree with themselves"):
            invite(study, ["ben", alike])
    assert annotators(study) == [ana], "nobody is invited by a command that fails"


def test_links_are_secret_and_stable(tmp_path: Path) -> None:
    study = comparison(tmp_path)
    ana, ben = invite(study, ["ana"])[0], invite(study, ["ben"])[0]
    assert invite(study, ["ana"])[0] == ana
    assert annotators(study) == [ana, ben]
    assert len(ana.token) >= 32
    assert ana.token != ben.token
    assert authenticate(study, ben.token) == ben
    for wrong in ("", "x", ana.token[:-1], ana.token + "x", "ü"):
        assert authenticate(study, wrong) is None
    assert stat.S_IMODE(study.path.stat().st_mode) == 0o600
    for name in ("", " ", "x" * 65, "a\nb"):
        with pytest.raises(UserError, match="1 to 64 printable"):
            invite(study, [name])[0]


def test_tokens_are_compared_in_constant_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = comparison(tmp_path)
    people = [invite(study, [name])[0] for name in ("ana", "ben", "eve")]
    compared = []

    def spy(a: bytes, b: bytes) -> bool:
        compared.append(a)
        return a == b

    monkeypatch.setattr("secrets.compare_digest", spy)
    assert authenticate(study, people[0].token) == people[0]
    assert compared == [person.token.encode() for person in people]  # no early exit


def test_the_latest_answer_counts_and_the_earlier_ones_stay(tmp_path: Path) -> None:
    study = comparison(tmp_path)
    vote(study, "ana", 2, {"": "first"}, swapped=True)
    vote(study, "ben", 2, {"": "tie"})
    vote(study, "ana", 2, {"": "second"}, swapped=True)
    answers = read_answers(study)
    assert [(a.annotator, a.item, a.value, a.swapped) for a in answers] == [
        ("ana", 2, "second", True),
        ("ben", 2, "tie", False),
    ]
    ana, _ = annotators(study)
    assert [a.value for a in read_answers(study, ana)] == ["second"]
    with sqlite3.connect(study.path) as connection:
        kept = connection.execute("SELECT value FROM answers ORDER BY id").fetchall()
    connection.close()
    assert kept == [("first",), ("tie",), ("second",)]


def test_an_item_is_finished_when_all_attributes_are_rated_or_it_is_skipped(tmp_path: Path) -> None:
    study = rating(tmp_path)
    ana = invite(study, ["ana"])[0]
    record(study, ana, 0, {"humor": "1", "": ""}, False)
    record(study, ana, 1, {"": "skip"}, False)
    record(study, ana, 2, {"": "skip"}, False)
    record(study, ana, 2, {"humor": "1", "": ""}, False)
    assert finished(study, read_answers(study, ana)) == {1}
    for name, value in (("helpfulness", "9"), ("lang", "de")):
        record(study, ana, 0, {name: value, "": ""}, False)
    assert finished(study, read_answers(study, ana)) == {0, 1}


def test_an_answer_is_on_the_disk_when_record_returns(tmp_path: Path) -> None:
    """A copy of the files, taken while the study is open, holds the answer: nothing waits in memory."""
    study = comparison(tmp_path)
    open_connection = sqlite3.connect(study.path)  # keeps the write-ahead log from being folded in
    open_connection.execute("SELECT count(*) FROM answers").fetchall()
    vote(study, "ana", 0, {"": "tie"})
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in study.folder.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    open_connection.close()
    assert [a.value for a in read_answers(open_study(copy))] == ["tie"]


def test_mistakes(tmp_path: Path) -> None:
    study = comparison(tmp_path)
    with pytest.raises(UserError, match="holds a study already"):
        comparison(tmp_path)
    with pytest.raises(UserError, match="no study in"):
        open_study(tmp_path / "nowhere")
    study.path.write_bytes(b"no database, but long enough to be looked at" * 40)
    with pytest.raises(UserError, match="cannot be read as a study"):
        open_study(study.folder)
    study.path.unlink()
    sqlite3.connect(study.path).close()
    study.path.touch()
    with pytest.raises(UserError, match="is no study that this version"):
        open_study(study.folder)


def test_a_study_that_could_not_be_written_leaves_nothing(tmp_path: Path) -> None:
    items = comparison(tmp_path)
    found = read_items(items)
    folder = tmp_path / "second"

    class Broken(tuple):  # type: ignore[type-arg]
        def __iter__(self):  # type: ignore[no-untyped-def]
            yield found[0]
            raise UserError("the disk is full")

    from steerlm.studies.rate.items import StudyItems

    with pytest.raises(UserError, match="disk is full"):
        create_study(folder, StudyItems(Broken(), {}), question="", schema=None, systems=["a", "b"], seed=0)
    assert list(folder.iterdir()) == []

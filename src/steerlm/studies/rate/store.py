"""A rating study on disk: one folder with one SQLite file that holds the items, the annotators and every answer.

Answers are only ever added, each in a transaction of its own that is on the disk before the page hears of it; the
latest one of an annotator on an item counts. So a crash loses nothing, and a change of mind leaves a trace.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import sqlite3
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import orjson

from steerlm.attributes import AttributeSchema
from steerlm.errors import UserError, shell_word
from steerlm.studies.names import require_distinct_names, tidy_name
from steerlm.studies.rate.items import Comparison, Item, RatedTurn, StudyItems

Kind = Literal["comparison", "rating"]
DATABASE = "study.sqlite"
_APPLICATION_ID = 0x5374724C  # marks the file as ours
_VERSION = 1
_TABLES = """
CREATE TABLE study (key TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE items (id INTEGER PRIMARY KEY, content TEXT NOT NULL);
CREATE TABLE annotators (id INTEGER PRIMARY KEY, name TEXT NOT NULL UNIQUE, token TEXT NOT NULL UNIQUE);
CREATE TABLE answers (
    id INTEGER PRIMARY KEY,
    annotator INTEGER NOT NULL REFERENCES annotators (id),
    item INTEGER NOT NULL REFERENCES items (id),
    attribute TEXT NOT NULL,
    value TEXT NOT NULL,
    swapped INTEGER NOT NULL,
    at REAL NOT NULL
);
CREATE INDEX answers_of_an_item ON answers (annotator, item, attribute);
"""


@dataclass(frozen=True)
class Study:
    """What a study asks; fixed once it is created.

    Attributes:
        schema: the attributes to rate; None: the study is a comparison.
        systems: names of the compared systems; empty for ratings.
        left_out: reason -> number of records that did not become items.
        num_items: how many items each annotator is asked.
    """

    folder: Path
    question: str
    seed: int
    schema: AttributeSchema | None
    systems: tuple[str, ...]
    left_out: Mapping[str, int]
    num_items: int

    @property
    def kind(self) -> Kind:
        """What people do: compare two answers or rate one."""
        return "comparison" if self.schema is None else "rating"

    @property
    def path(self) -> Path:
        return self.folder / DATABASE


@dataclass(frozen=True)
class Rater:
    """A person who was invited; `token` is the secret part of the link."""

    id: int
    name: str
    token: str


@dataclass(frozen=True)
class RaterAnswer:
    """The latest word of an annotator on an item.

    Attributes:
        attribute: which attribute is rated; empty for the verdict of a comparison and for `skip`.
        value: `first`, `second`, `tie` or `skip`, or the value's text; `first` is the item's first system, whatever
            side it stood on. Empty: a skip that was taken back.
        swapped: whether the second system's answer was shown first.
    """

    annotator: str
    item: int
    attribute: str
    value: str
    swapped: bool


def create_study(
    folder: Path, items: StudyItems, *, question: str, schema: AttributeSchema | None, systems: Sequence[str], seed: int
) -> Study:
    """Write a new study; it appears whole or not at all."""
    path = folder / DATABASE
    if path.exists():
        raise UserError(f"{folder} holds a study already; take another folder (answers are never overwritten)")
    folder.mkdir(parents=True, exist_ok=True)
    partial = folder / f".{DATABASE}.{os.getpid()}.partial"
    partial.touch(mode=0o600)  # the links are secrets
    settings = {
        "question": question,
        "seed": seed,
        "schema": None if schema is None else schema.to_dict(),
        "systems": list(systems),
        "left_out": dict(items.left_out),
    }
    try:
        with contextlib.closing(sqlite3.connect(partial)) as connection, connection:
            connection.executescript(
                f"PRAGMA application_id = {_APPLICATION_ID}; PRAGMA user_version = {_VERSION};\n{_TABLES}"
            )
            connection.executemany(
                "INSERT INTO study VALUES (?, ?)", [(k, orjson.dumps(v).decode()) for k, v in settings.items()]
            )
            connection.executemany(
                "INSERT INTO items VALUES (?, ?)",
                [(i, orjson.dumps(item.to_dict()).decode()) for i, item in enumerate(items.items)],
            )
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)
    return open_study(folder)


def open_study(folder: Path) -> Study:
    path = folder / DATABASE
    if not path.is_file():
        raise UserError(f"no study in {folder}; make one with `steerlm rate new {shell_word(folder)} ...`")
    try:
        with _connect(path) as connection:
            application, version = (
                connection.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version")
            )
            if application != _APPLICATION_ID or version != _VERSION:
                raise UserError(f"{path} is no study that this version of steerlm reads")
            settings = {key: orjson.loads(value) for key, value in connection.execute("SELECT key, value FROM study")}
            num_items = connection.execute("SELECT count(*) FROM items").fetchone()[0]
    except sqlite3.DatabaseError as error:
        raise UserError(f"{path} cannot be read as a study: {error}") from None
    schema = settings["schema"]
    return Study(
        folder=folder,
        question=settings["question"],
        seed=settings["seed"],
        schema=None if schema is None else AttributeSchema.from_dict(schema),
        systems=tuple(settings["systems"]),
        left_out=settings["left_out"],
        num_items=num_items,
    )


def invite(study: Study, names: Sequence[str]) -> list[Rater]:
    """Return the raters of these names with their links' tokens; new ones where there are none.

    Names are tidied: white space around them is no part of them.
    """
    for name in names:
        if not 0 < len(name.strip()) <= 64 or not name.strip().isprintable():
            raise UserError(f"rater's name {name!r} must be 1 to 64 printable characters")
    wanted = list(dict.fromkeys(tidy_name(name) for name in names))
    known = {rater.name for rater in annotators(study)}
    hint = "one person rating twice would agree with themselves: give another name, or the known one to see its link"
    require_distinct_names((name for name in wanted if name not in known), "raters", hint, known)
    with _connect(study.path) as connection, connection:
        connection.executemany(
            "INSERT INTO annotators (name, token) VALUES (?, ?) ON CONFLICT (name) DO NOTHING",
            [(name, secrets.token_urlsafe(24)) for name in wanted],
        )
    return [rater for rater in annotators(study) if rater.name in wanted]


def annotators(study: Study) -> list[Rater]:
    with _connect(study.path) as connection:
        return [Rater(*row) for row in connection.execute("SELECT id, name, token FROM annotators ORDER BY id")]


def authenticate(study: Study, token: str) -> Rater | None:
    """Return whose token this is; the time taken does not depend on how much of a guess is right."""
    found = None
    for annotator in annotators(study):
        if secrets.compare_digest(annotator.token.encode(), token.encode()):
            found = annotator
    return found


def read_item(study: Study, index: int) -> Item:
    assert 0 <= index < study.num_items
    with _connect(study.path) as connection:
        content = connection.execute("SELECT content FROM items WHERE id = ?", (index,)).fetchone()[0]
    return _item(study, content)


def read_items(study: Study) -> list[Item]:
    with _connect(study.path) as connection:
        return [_item(study, row[0]) for row in connection.execute("SELECT content FROM items ORDER BY id")]


def _item(study: Study, content: str) -> Item:
    raw = orjson.loads(content)
    return Comparison.from_dict(raw) if study.kind == "comparison" else RatedTurn.from_dict(raw)


def record(study: Study, annotator: Rater, item: int, values: Mapping[str, str], swapped: bool) -> None:
    """Write answers of one annotator to one item; they are on the disk when this returns."""
    now = time.time()
    with _connect(study.path) as connection, connection:
        connection.executemany(
            "INSERT INTO answers (annotator, item, attribute, value, swapped, at) VALUES (?, ?, ?, ?, ?, ?)",
            [(annotator.id, item, attribute, value, swapped, now) for attribute, value in values.items()],
        )


def read_answers(study: Study, annotator: Rater | None = None) -> list[RaterAnswer]:
    """Return the latest answers, of everyone or of one annotator, ordered by annotator, item and attribute."""
    where, parameters = ("", ()) if annotator is None else ("WHERE annotator = ?", (annotator.id,))
    with _connect(study.path) as connection:
        rows = connection.execute(
            "SELECT annotators.name, item, attribute, value, swapped FROM answers "
            "JOIN annotators ON annotators.id = answers.annotator WHERE answers.id IN "
            f"(SELECT max(id) FROM answers {where} GROUP BY annotator, item, attribute) "
            "ORDER BY annotators.id, item, attribute",
            parameters,
        ).fetchall()
    return [RaterAnswer(name, item, attribute, value, bool(swap)) for name, item, attribute, value, swap in rows]


def given(answers: Sequence[RaterAnswer], item: int) -> dict[str, str]:
    """Return one annotator's answers to one item: attribute -> value."""
    return {answer.attribute: answer.value for answer in answers if answer.item == item}


def finished(study: Study, answers: Sequence[RaterAnswer]) -> set[int]:
    """Return the items that one annotator has answered in full or skipped."""
    by_item: dict[int, dict[str, str]] = {}
    for answer in answers:
        by_item.setdefault(answer.item, {})[answer.attribute] = answer.value
    wanted = {""} if study.schema is None else set(study.schema.names)
    return {item for item, values in by_item.items() if values.get("") == "skip" or wanted <= values.keys()}


@contextlib.contextmanager
def _connect(path: Path) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(sqlite3.connect(path, timeout=30)) as connection:
        # WAL: readers never wait for the writer. FULL: a commit survives a power cut, not only a crash of ours.
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")
        yield connection

"""Step 2: what is written, and that an interruption anywhere changes no byte of it."""

from __future__ import annotations

import errno
import gzip
import json
import os
import shutil
import signal
import time
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from steerlm.attributes import Attribute, AttributeSchema, Value
from steerlm.checkpoint.models import save_model
from steerlm.config import AnnotateConfig
from steerlm.conversation import Conversation, Message, Score, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.scorers.attribute_models import load_attribute_model
from steerlm.stages.annotate import stage
from steerlm.stages.annotate.stage import annotate
from tests import processes
from tests.scorers.test_attribute_models import classifier, info
from tests.tiny import byte_tokenizer, tiny_llama_config

SCHEMA = AttributeSchema(
    (
        Attribute("quality"),
        Attribute("humor", maximum=9),
        Attribute("lang", kind="categorical", categories=("en", "de")),
    )
)


class FakeScorer:
    """Scores from the text, plus a trace of what else is in the batch, as floating point has it on a real model."""

    schema = SCHEMA
    fingerprint = "0123456789abcdef"

    def __init__(self) -> None:
        self.calls: list[int] = []

    @property
    def who(self) -> str:
        return f"model:{self.fingerprint}"

    def encode(self, conversations: Sequence[Sequence[Message]]) -> list[list[int] | None]:
        """Conversations as bytes of text; happens in another process."""
        texts = [json.dumps([(m.role, m.content) for m in messages]) for messages in conversations]
        return [
            None if "endless" in messages[-1].content else list(text.encode())
            for messages, text in zip(conversations, texts, strict=True)
        ]

    def score_encoded(
        self, rows: Sequence[list[int] | None], tokens_per_batch: int | None = None
    ) -> list[dict[str, Score] | None]:
        self.calls.append(len(rows))
        said = [None if row is None else [Message(*turn) for turn in json.loads(bytes(row))] for row in rows]
        trace = zlib.crc32(repr([m and m[-1].content for m in said]).encode()) % 1000 / 1000
        return [None if messages is None else self._one(messages, trace) for messages in said]

    def score(
        self, conversations: Sequence[Sequence[Message]], tokens_per_batch: int | None = None
    ) -> list[dict[str, Score] | None]:
        return self.score_encoded(self.encode(conversations), tokens_per_batch)

    def _one(self, messages: Sequence[Message], trace: float) -> dict[str, Score]:
        share = zlib.crc32(repr([(m.role, m.content) for m in messages]).encode()) % 97 / 97
        return {
            "quality": Score(4 * share + 0.1 * trace, 0.4),
            "humor": Score(9 - 9 * share, 0.123456),
            "lang": Score(0.0, 0.0, {"en": share, "de": 1 - share}),
        }

    def values(self, scores: Mapping[str, Score]) -> dict[str, Value]:
        probabilities = scores["lang"].probabilities or {}
        return {
            "quality": SCHEMA["quality"].round(scores["quality"].mean),
            "humor": SCHEMA["humor"].round(scores["humor"].mean),
            "lang": max(probabilities, key=lambda category: probabilities[category]),
        }


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> FakeScorer:
    scorer = FakeScorer()
    monkeypatch.setattr(stage, "open_attribute_model", lambda path, precision, devices, engine: scorer)
    return scorer


def conversation(number: int) -> Conversation:
    messages = [Message("system", f"You are number {number}.")] if number % 4 == 0 else []
    for turn in range(1 + number % 3):
        labels: dict[str, Any] = {}
        if number % 2:
            labels = {"attributes": {"quality": number % 5}}
        if number % 5 == 0:
            labels["ratings"] = {"quality": (1.0, 2.0)}
        messages.append(Message("user", f"Question {turn} of é {number}?"))
        messages.append(Message("assistant", f"Answer {turn} of {number} " * (1 + number % 7), **labels))
    return Conversation(f"id-{number}", tuple(messages), "src", f"g{number}", {"meta": {"kept": number}})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "in" / "chats.jsonl"
    write_conversations(path, map(conversation, range(23)), SCHEMA)
    return path


CONFIG = AnnotateConfig(window=5, tokens_per_batch=2000)
MODEL = Path("models/judge")


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


# What is written


def test_every_assistant_turn_is_labelled_and_nothing_else_changes(
    fake: FakeScorer, data: Path, tmp_path: Path
) -> None:
    annotate(CONFIG, [data], MODEL, tmp_path / "out")
    before = list(read_conversations(data, SCHEMA))
    after = list(read_conversations(tmp_path / "out" / "chats.jsonl", SCHEMA))
    assert [record.id for record in after] == [record.id for record in before]
    for old, new in zip(before, after, strict=True):
        assert (new.source, new.group, new.meta) == (old.source, old.group, old.meta)
        for index, (a, b) in enumerate(zip(old.messages, new.messages, strict=True)):
            assert (b.role, b.content, b.ratings) == (a.role, a.content, a.ratings)
            if b.role != "assistant":
                assert b == a
                continue
            expected = fake._one(old.messages[: index + 1], 0.0)
            assert b.labelled_by == "model:0123456789abcdef"
            assert b.human == a.attributes
            assert b.scores is not None
            assert b.attributes == fake.values(b.scores)
            # each turn in the light of what was said before it and nothing after
            assert b.scores["humor"].mean == round(expected["humor"].mean, 4)
            assert b.scores["humor"].std == 0.1235
            assert b.scores["lang"].probabilities == {
                k: round(p, 4) for k, p in (expected["lang"].probabilities or {}).items()
            }


def test_annotating_the_result_again_gives_the_same_file(fake: FakeScorer, data: Path, tmp_path: Path) -> None:
    annotate(CONFIG, [data], MODEL, tmp_path / "one")
    annotate(CONFIG, [tmp_path / "one" / "chats.jsonl"], MODEL, tmp_path / "two")
    assert files(tmp_path / "one")["chats.jsonl"] == files(tmp_path / "two")["chats.jsonl"]


def test_human_labels_that_are_already_kept_stay(fake: FakeScorer, tmp_path: Path) -> None:
    kept = Message("assistant", "a", {"quality": 1}, {"humor": 7}, labelled_by="model:older")
    guess = Message("assistant", "b", {"quality": 1}, labelled_by="model:older")
    person = Message("assistant", "c", {"quality": 1}, labelled_by="human")
    turns = [Conversation(m.content, (Message("user", "u"), m)) for m in (kept, guess, person)]
    write_conversations(tmp_path / "turns.jsonl", turns, SCHEMA)
    annotate(CONFIG, [tmp_path / "turns.jsonl"], MODEL, tmp_path / "out")
    written = read_conversations(tmp_path / "out" / "turns.jsonl", SCHEMA)
    assert [record.messages[1].human for record in written] == [{"humor": 7}, None, {"quality": 1}]


def test_a_turn_that_does_not_fit_keeps_no_value_of_another_scale(fake: FakeScorer, tmp_path: Path) -> None:
    turn = Message("assistant", "an endless answer", {"quality": 3})
    path = tmp_path / "a.jsonl"
    write_conversations(path, [Conversation("x", (Message("user", "u"), turn)), conversation(1)], SCHEMA)
    summary = annotate(CONFIG, [path], MODEL, tmp_path / "out")
    assert summary["files"] == {"a.jsonl": {"records": 2, "turns": 3, "labelled": 2, "too_long": 1}}
    written = next(read_conversations(tmp_path / "out" / "a.jsonl", SCHEMA)).messages[1]
    assert (written.attributes, written.scores, written.labelled_by) == (None, None, None)
    assert written.human == {"quality": 3}


def test_a_turn_that_does_not_fit_is_counted_beside_measures(fake: FakeScorer, tmp_path: Path) -> None:
    words = Attribute("length", maximum=1, measure="words", cuts=(2.0,))
    turns = (Message("user", "u"), Message("assistant", "an endless answer"))
    write_conversations(tmp_path / "a.jsonl", [Conversation("x", turns), Conversation("y", turns[:1])])
    schema = AttributeSchema((*SCHEMA, words))
    summary = annotate(CONFIG, [tmp_path / "a.jsonl"], MODEL, tmp_path / "out", schema=schema)
    assert summary["files"] == {"a.jsonl": {"records": 2, "turns": 1, "labelled": 1, "too_long": 1}}
    assert summary["missing"] == {"quality": 1, "humor": 1, "lang": 1, "length": 0}


def test_a_gzipped_file_and_an_empty_one(fake: FakeScorer, data: Path, tmp_path: Path) -> None:
    zipped = tmp_path / "z" / "chats.jsonl.gz"
    zipped.parent.mkdir()
    zipped.write_bytes(gzip.compress(data.read_bytes()))
    empty = tmp_path / "empty.jsonl"
    empty.write_bytes(b"")
    annotate(CONFIG, [data], MODEL, tmp_path / "one")
    summary = annotate(CONFIG, [zipped, empty], MODEL, tmp_path / "two")
    assert files(tmp_path / "two")["chats.jsonl"] == files(tmp_path / "one")["chats.jsonl"]
    assert files(tmp_path / "two")["empty.jsonl"] == b""
    assert summary["files"]["empty.jsonl"] == {"records": 0, "turns": 0, "labelled": 0, "too_long": 0}


def test_reading_goes_on_while_the_model_works_but_no_more_than_a_few_windows_ahead(
    fake: FakeScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, trace = tmp_path / "in.jsonl", tmp_path / "trace"
    write_conversations(path, map(conversation, range(0, 180, 3)), SCHEMA)  # 60 of one turn
    trace.touch()
    monkeypatch.setattr("steerlm.storage.ahead._num_processes", lambda: 1)  # more cores would read further ahead
    encode, score = fake.encode, fake.score_encoded
    here = os.getpid()
    read: list[float] = []

    def traced(conversations: Sequence[Sequence[Message]]) -> list[list[int] | None]:
        assert os.getpid() != here, "the model's process does not encode"
        with trace.open("ab") as stream:
            stream.write(b".")
        return encode(conversations)

    def slow(rows: Sequence[list[int] | None], tokens_per_batch: int | None = None) -> list[dict[str, Score] | None]:
        deadline = time.monotonic() + 60  # waits for the reader, so that a busy machine changes nothing
        while trace.stat().st_size < 5 * min(12, len(read) + 2) and time.monotonic() < deadline:
            time.sleep(0.01)
        read.append(trace.stat().st_size / 5)
        return score(rows, tokens_per_batch)

    monkeypatch.setattr(fake, "encode", traced)
    monkeypatch.setattr(fake, "score_encoded", slow)
    annotate(CONFIG, [path], MODEL, tmp_path / "out")
    assert len(read) == 12
    for number, windows in enumerate(read):
        assert min(12, number + 2) <= windows <= number + 3, read


# Interruptions


def test_a_file_cut_anywhere_is_continued_to_the_same_bytes(
    fake: FakeScorer, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerlm.stages.annotate.stage.read_ahead", map)  # a hundred runs, each with its processes
    annotate(CONFIG, [data], MODEL, tmp_path / "whole")
    whole = files(tmp_path / "whole")
    text = whole["chats.jsonl"]
    ends = [i + 1 for i, byte in enumerate(text) if byte == 10]
    cuts = {0, 1, len(text) - 1, len(text), *range(7, len(text), 997)} | {end + d for end in ends for d in (-1, 0, 1)}
    calls = len(fake.calls)
    resumed = set()
    for cut in sorted(cuts):
        out = tmp_path / "cut"
        shutil.rmtree(out, ignore_errors=True)
        shutil.copytree(tmp_path / "whole", out)
        (out / "summary.json").unlink()
        (out / "chats.jsonl").unlink()
        (out / "chats.jsonl.partial").write_bytes(text[:cut])
        fake.calls.clear()
        annotate(CONFIG, [data], MODEL, out)
        resumed.add(len(fake.calls))
        assert files(out) == whole, cut
    assert resumed == set(range(1, calls + 1)), "windows that were written are not computed again"


def test_a_hole_in_a_partial_file_is_computed_again(fake: FakeScorer, data: Path, tmp_path: Path) -> None:
    annotate(CONFIG, [data], MODEL, tmp_path / "out")
    whole = files(tmp_path / "out")
    text = whole["chats.jsonl"]
    (tmp_path / "out" / "chats.jsonl").rename(tmp_path / "out" / "chats.jsonl.partial")
    middle = text.index(b"\n", len(text) // 2)
    (tmp_path / "out" / "chats.jsonl.partial").write_bytes(text[:middle] + bytes(300) + b"\n" + text[middle + 301 :])
    annotate(CONFIG, [data], MODEL, tmp_path / "out")
    assert files(tmp_path / "out") == whole


_KILLED = """
import os, signal, sys
from pathlib import Path
from steerlm.config import AnnotateConfig
from steerlm.stages.annotate import stage

load = stage.open_attribute_model

def deadly(path, precision, devices, engine):
    scorer = load(path, precision, devices, engine)
    calls = []
    def score(*arguments):
        calls.append(1)
        if len(calls) == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        return type(scorer).score_encoded(scorer, *arguments)
    object.__setattr__(scorer, "score_encoded", score)
    return scorer

stage.open_attribute_model = deadly
model, data, out = map(Path, sys.argv[1:])
stage.annotate(AnnotateConfig(window=5, tokens_per_batch=2000, precision="fp32"), [data], model, out)
"""


def test_a_killed_process_leaves_what_the_next_one_completes(data: Path, tmp_path: Path) -> None:
    tokenizer = byte_tokenizer(SCHEMA)
    model = classifier(tiny_llama_config(len(tokenizer)), tokenizer, SCHEMA)
    save_model(tmp_path / "m", model, tokenizer, info("regression", SCHEMA), "")
    config = AnnotateConfig(window=5, tokens_per_batch=2000, precision="fp32")
    annotate(config, [data], tmp_path / "m", tmp_path / "whole")
    arguments = [str(tmp_path / "m"), str(data), str(tmp_path / "cut")]
    killed = processes.run(["-c", _KILLED, *arguments])
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    # the third window may not have been written yet
    assert (tmp_path / "cut" / "chats.jsonl.partial").read_bytes().count(b"\n") in (10, 11, 12, 13, 14, 15)
    assert not (tmp_path / "cut" / "chats.jsonl").exists()
    annotate(config, [data], tmp_path / "m", tmp_path / "cut")
    assert files(tmp_path / "cut") == files(tmp_path / "whole")
    # a real model's scores differ from turn to turn
    scorer = load_attribute_model(tmp_path / "m", "fp32")
    record = next(r for r in read_conversations(data) if len(r.assistant_turns) == 3)
    written = next(r for r in read_conversations(tmp_path / "cut" / "chats.jsonl") if r.id == record.id)
    for index in record.assistant_turns:
        [alone] = scorer.score([record.messages[: index + 1]], 2000)
        scores = written.messages[index].scores
        assert alone is not None
        assert scores is not None
        assert scores["quality"].mean == pytest.approx(alone["quality"].mean, abs=1e-3)


def test_a_full_disk_loses_nothing(
    fake: FakeScorer, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    annotate(CONFIG, [data], MODEL, tmp_path / "whole")
    real, count = os.fsync, []

    def full(descriptor: int) -> None:
        count.append(1)
        if len(count) == 4:
            raise OSError(errno.ENOSPC, "No space left on device")
        real(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        with pytest.raises(UserError, match="no space left on the disk"):
            annotate(CONFIG, [data], MODEL, tmp_path / "out")
    fake.calls.clear()
    annotate(CONFIG, [data], MODEL, tmp_path / "out")
    assert 0 < len(fake.calls) < 5
    assert files(tmp_path / "out") == files(tmp_path / "whole")


# What a finished file depends on


def test_a_finished_file_is_left_alone(fake: FakeScorer, data: Path, tmp_path: Path) -> None:
    first = annotate(CONFIG, [data], MODEL, tmp_path / "out")
    before = (tmp_path / "out" / "chats.jsonl").stat().st_mtime_ns
    fake.calls.clear()
    assert annotate(CONFIG, [data], MODEL, tmp_path / "out") == first
    assert (tmp_path / "out" / "chats.jsonl").stat().st_mtime_ns == before
    assert fake.calls == []


def test_another_model_or_input_or_setting_is_annotated_anew(fake: FakeScorer, data: Path, tmp_path: Path) -> None:
    annotate(CONFIG, [data], MODEL, tmp_path / "out")
    fake.fingerprint = "f" * 16
    annotate(CONFIG, [data], MODEL, tmp_path / "out")
    record = next(read_conversations(tmp_path / "out" / "chats.jsonl"))
    assert record.messages[record.assistant_turns[0]].labelled_by == "model:" + "f" * 16
    write_conversations(data, [conversation(5)], SCHEMA)
    assert annotate(CONFIG, [data], MODEL, tmp_path / "out")["files"]["chats.jsonl"]["records"] == 1
    fake.calls.clear()
    annotate(AnnotateConfig(window=6), [data], MODEL, tmp_path / "out")
    assert len(fake.calls) == 1


def test_a_partial_file_of_other_records_is_refused(fake: FakeScorer, data: Path, tmp_path: Path) -> None:
    annotate(CONFIG, [data], MODEL, tmp_path / "out")
    text = (tmp_path / "out" / "chats.jsonl").read_bytes().replace(b"id-3", b"id-x")
    (tmp_path / "out" / "chats.jsonl").unlink()
    (tmp_path / "out" / "chats.jsonl.partial").write_bytes(text)
    with pytest.raises(UserError, match=r"chats\.jsonl\.partial:4 does not hold the input's record 'id-3'"):
        annotate(CONFIG, [data], MODEL, tmp_path / "out")


# Errors


def test_another_schema_is_an_error_that_names_both(fake: FakeScorer, tmp_path: Path) -> None:
    other = AttributeSchema((Attribute("quality", maximum=9),))
    path = tmp_path / "other.jsonl"
    write_conversations(path, [Conversation("x", (Message("user", "u"), Message("assistant", "a")))], other)
    with pytest.raises(UserError, match=r"models/judge has .*humor:0-9.* but .*other\.jsonl:1 has 'quality:0-9'"):
        annotate(CONFIG, [path], MODEL, tmp_path / "out")


def test_two_inputs_of_one_name_are_an_error(fake: FakeScorer, data: Path, tmp_path: Path) -> None:
    other = tmp_path / "b" / "chats.jsonl"
    other.parent.mkdir()
    shutil.copy(data, other)
    with pytest.raises(UserError, match="would both be written to"):
        annotate(CONFIG, [data, other], MODEL, tmp_path / "out")


def test_input_that_is_missing_malformed_or_its_own_output(fake: FakeScorer, data: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="at least one data file"):
        annotate(CONFIG, [], MODEL, tmp_path / "out")
    with pytest.raises(UserError, match=r"no such file: .*none\.jsonl"):
        annotate(CONFIG, [tmp_path / "none.jsonl"], MODEL, tmp_path / "out")
    with pytest.raises(UserError, match="overwritten by its own annotation"):
        annotate(CONFIG, [data], MODEL, data.parent)
    with data.open("ab") as stream:
        stream.write(b'{"id": "broken", \n')
    with pytest.raises(UserError, match=r"chats\.jsonl:24:\d+: malformed JSON"):
        annotate(CONFIG, [data], MODEL, tmp_path / "out")
    assert (tmp_path / "out" / "chats.jsonl.partial").read_bytes().count(b"\n") == 20, "what was written stays"


# The summary


def test_summary_equals_what_numpy_finds_in_the_files(fake: FakeScorer, data: Path, tmp_path: Path) -> None:
    summary = annotate(CONFIG, [data], MODEL, tmp_path / "out")
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    turns = [
        (record.id, index, record.messages[index])
        for record in read_conversations(tmp_path / "out" / "chats.jsonl", SCHEMA)
        for index in record.assistant_turns
    ]
    assert summary["files"]["chats.jsonl"] == {
        "records": 23,
        "turns": len(turns),
        "labelled": len(turns),
        "too_long": 0,
    }
    assert summary["model"] == fake.fingerprint
    for attribute in SCHEMA:
        counts = {str(v): 0 for v in attribute.levels}
        for _, _, message in turns:
            counts[str((message.attributes or {})[attribute.name])] += 1
        assert summary["histograms"][attribute.name] == counts
    means = np.array([[(m.scores or {})[name].mean for name in ("quality", "humor")] for _, _, m in turns])
    assert summary["correlations"]["quality"]["humor"] == pytest.approx(np.corrcoef(means.T)[0, 1])
    labelled = [(i, t, m, m.target("quality"), (m.scores or {})["quality"].mean) for i, t, m in turns]
    errors = [(abs(human - score), i, t) for i, t, _, human, score in labelled if human is not None]
    assert summary["human"]["quality"]["n"] == len(errors) > 10
    assert summary["human"]["quality"]["mae"] == pytest.approx(np.mean([error for error, _, _ in errors]))
    assert "humor" not in summary["human"]
    largest = sorted(errors, key=lambda row: -row[0])[:50]
    found = [(abs(r["human"] - r["score"]), r["id"], r["turn"]) for r in summary["disagreements"]]
    assert [row[0] for row in found] == pytest.approx([row[0] for row in largest])
    assert {row[1:] for row in found[:10]} == {row[1:] for row in largest[:10]}
    assert summary["disagreements"][0]["file"] == "chats.jsonl"
    assert summary["disagreements"][0]["attribute"] == "quality"


def test_summary_lists_no_more_than_fifty_disagreements_and_counts_categories(fake: FakeScorer, tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    rows = [
        Conversation(str(i), (Message("user", "u"), Message("assistant", f"a{i}", {"quality": i % 5, "lang": "en"})))
        for i in range(100)
    ]
    write_conversations(path, rows, SCHEMA)
    summary = annotate(CONFIG, [path], MODEL, tmp_path / "out")
    assert len(summary["disagreements"]) == 50
    english = summary["histograms"]["lang"]["en"]
    assert summary["human"]["lang"] == {"n": 100, "equal_share": english / 100}


def test_constant_scores_have_no_correlation(fake: FakeScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    constant = {"quality": Score(1.3, 0.0), "humor": Score(2.0, 0.0), "lang": Score(0.0, 0.0, {"en": 1.0, "de": 0.0})}
    monkeypatch.setattr(fake, "_one", lambda messages, trace: constant)
    path = tmp_path / "a.jsonl"
    write_conversations(path, map(conversation, range(5)), SCHEMA)
    summary = annotate(CONFIG, [path], MODEL, tmp_path / "out")
    assert summary["correlations"] == {"quality": {"humor": None}, "humor": {"quality": None}}


def test_several_ranks_are_refused(fake: FakeScorer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "a.jsonl"
    write_conversations(path, map(conversation, range(3)), SCHEMA)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match=r"one process, but WORLD_SIZE is 2.*torchrun"):
        annotate(CONFIG, [path], MODEL, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    monkeypatch.setenv("WORLD_SIZE", "1")
    annotate(CONFIG, [path], MODEL, tmp_path / "out")

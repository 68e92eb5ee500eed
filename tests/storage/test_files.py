"""Files appear whole or not at all, and reading one names the place of a fault."""

from __future__ import annotations

import errno
import gzip
import io
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from steerlm.attributes import OASST
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.errors import UserError
from steerlm.storage.files import atomic_writer, parse_json_line, read_lines, read_yaml, write_json

CONVERSATION = Conversation("a", (Message("user", "Hi"), Message("assistant", "Hello")))


class Full(io.BytesIO):
    """A file on a disk that is full."""

    def write(self, data: object) -> int:  # type: ignore[override]
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def test_an_exception_in_the_middle_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"old")

    def records() -> object:
        yield CONVERSATION
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_conversations(path, records(), OASST)  # type: ignore[arg-type]
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_full_disk_leaves_the_old_file_and_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    path = tmp_path / name
    path.write_bytes(b"old")
    with monkeypatch.context() as patch:
        patch.setattr(Path, "open", lambda self, mode: Full())
        with pytest.raises(UserError) as error:
            write_conversations(path, [CONVERSATION], OASST)
    for piece in ("no space left", str(path), "free some space"):
        assert piece in str(error.value)
    assert path.read_bytes() == b"old"


def test_a_disk_that_is_full_only_when_flushed_leaves_the_old_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(descriptor: int) -> None:
        raise OSError(errno.EDQUOT, os.strerror(errno.EDQUOT))

    write_json(tmp_path / "a.json", {"old": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(UserError, match="no space left"):
        write_json(tmp_path / "a.json", {"new": 1})
    assert (tmp_path / "a.json").read_bytes() == b'{\n  "old": 1\n}\n'
    assert len(list(tmp_path.iterdir())) == 1


def test_other_operating_system_errors_are_not_disguised(tmp_path: Path) -> None:
    with pytest.raises(PermissionError), atomic_writer(tmp_path / "a"):
        raise PermissionError(errno.EACCES, "no")


def test_a_process_killed_while_writing_leaves_the_old_file(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    path.write_bytes(b"old")
    code = (
        "import os, signal, sys\n"
        "from steerlm.storage.files import atomic_writer\n"
        "with atomic_writer(sys.argv[1]) as stream:\n"
        "    stream.write(b'new'); stream.flush(); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"old"


def test_a_file_appears_whole_in_a_new_folder(tmp_path: Path) -> None:
    path = tmp_path / "new" / "a.txt"
    with atomic_writer(path) as stream:
        stream.write(b"x")
        assert not path.exists()
    assert path.read_bytes() == b"x"
    assert list(path.parent.iterdir()) == [path]


def test_lines_have_their_numbers_and_blank_ones_are_left_out(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    path.write_bytes(b"1\n\n \n2")
    assert list(read_lines(path)) == [(1, b"1\n"), (4, b"2")]


@pytest.mark.parametrize("damage", ["cut", "flipped", "not gzip"])
def test_a_damaged_gzip_file_is_a_users_error(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "a.jsonl.gz"
    whole = gzip.compress(b'{"a": 1}\n' * 1000)
    path.write_bytes({"cut": whole[:-12], "flipped": whole[:20] + b"\xff\xff" + whole[22:], "not gzip": b"1\n"}[damage])
    with pytest.raises(UserError, match=r"a\.jsonl\.gz: damaged gzip file"):
        list(read_lines(path))


@pytest.mark.parametrize(
    ("line", "place"),
    [
        (b'{"a": }', "a.jsonl:7:7: malformed JSON"),
        (b'{"a": "\xff"}', "a.jsonl:7:"),
        (b'{"a": NaN}', "a.jsonl:7: NaN is"),
    ],
)
def test_a_malformed_line_has_its_place(line: bytes, place: str) -> None:
    with pytest.raises(UserError) as error:
        parse_json_line(line, Path("a.jsonl"), 7)
    assert str(error.value).startswith(place)


def test_a_key_that_stands_twice_is_named_with_both_lines(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("seed: 1\ntrain:\n  epochs: 2\n  rate: 1\n  epochs: 3\n")
    with pytest.raises(UserError) as error:
        read_yaml(path)
    assert (
        str(error.value) == f"{path}:5:3: malformed YAML: the key 'epochs' stands twice, in lines 3 and 5; take one out"
    )


def test_what_a_merge_brings_may_be_said_otherwise_and_nothing_is_executed(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text("a: &a {x: 1, y: 2}\nb: &b\n  <<: *a\n  x: 3\nc: {<<: *b, y: 4}\n")
    assert read_yaml(path) == {"a": {"x": 1, "y": 2}, "b": {"x": 3, "y": 2}, "c": {"x": 3, "y": 4}}
    path.write_text("a: !!python/object/apply:os.getcwd []\n")
    with pytest.raises(UserError, match="malformed YAML"):
        read_yaml(path)

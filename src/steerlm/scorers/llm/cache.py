"""Replies already paid for: an append-only JSONL file, one line per reply, written as soon as it arrives."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import orjson

from steerlm.storage.files import full_disk_is_user_error
from steerlm.storage.locks import held


@dataclass(frozen=True)
class Reply:
    """What came of one request.

    Attributes:
        text: the judge's output, verbatim; empty where it gave none.
        finish_reason: `stop`, `length` (cut off), or what else the endpoint says.
        prompt_tokens: tokens read, as the endpoint counted them; None where it does not.
        completion_tokens: tokens written.
        failure: why there is no reply; empty where there is one. Failures are never stored, so they are tried again.
        refused: the endpoint will not answer this request; other failures may have passed a moment later.
        thought: the endpoint handed out thinking beside the text.
    """

    text: str
    finish_reason: str = "stop"
    prompt_tokens: int | None = None
    completion_tokens: int | None = None
    failure: str = ""
    refused: bool = False
    thought: bool = False


def read_replies(path: Path) -> dict[str, Reply]:
    """Return the stored replies by key; a line that was cut off by a crash is left out, and so asked for again."""
    replies = {}
    if path.is_file():
        for line in path.read_bytes().splitlines():
            with contextlib.suppress(orjson.JSONDecodeError, KeyError, TypeError):
                row = orjson.loads(line)
                counts = row["prompt_tokens"], row["completion_tokens"]
                thought = bool(row.get("thought"))
                replies[str(row["key"])] = Reply(row["text"], row["finish_reason"], *counts, thought=thought)
    return replies


def append_reply(stream: IO[bytes], key: str, reply: Reply) -> None:
    """Store one reply; when this returns it is on the disk."""
    row = {
        "key": key,
        "text": reply.text,
        "finish_reason": reply.finish_reason,
        "prompt_tokens": reply.prompt_tokens,
        "completion_tokens": reply.completion_tokens,
        "thought": reply.thought,
    }
    stream.write(orjson.dumps(row) + b"\n")
    stream.flush()
    os.fsync(stream.fileno())


@contextlib.contextmanager
def open_cache(path: Path) -> Iterator[IO[bytes]]:
    """Open the file for appending, held against a second process that would pay for the same requests."""
    busy = f"another process is judging into {path}; wait for it or choose another folder"
    with held(path.with_name(f"{path.name}.lock"), busy), full_disk_is_user_error(path), path.open("ab+") as stream:
        size = stream.seek(0, os.SEEK_END)
        if size:
            stream.seek(size - 1)
            if stream.read(1) != b"\n":  # a crash cut the last line off: the next one must not be glued to it
                stream.write(b"\n")
        yield stream

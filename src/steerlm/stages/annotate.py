"""Step 2: label every assistant turn with the attribute model (SteerLM, section 3.2).

    steerlm annotate RECIPE

The predictions replace the human labels as `attributes`, even on the data the human labels came from: that puts
all annotators and data sets on one scale. Human labels are kept beside them as `human`, real-valued predictions as
`scores`. Records stream through in windows of fixed size that begin at fixed positions, so the batches, and with them
every bit of the output, do not depend on where a run was interrupted.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

import orjson

from steerlm.attribute_models.annotation_summary import summarise
from steerlm.attribute_models.scoring import AttributeModel, load_attribute_model
from steerlm.config import AnnotateConfig
from steerlm.conversation import Conversation, Message, Score, read_conversations, to_json_line
from steerlm.errors import UserError
from steerlm.files import full_disk_is_user_error, write_json
from steerlm.progress import progress

T = TypeVar("T")


def annotate(config: AnnotateConfig, data: Sequence[Path], model: Path, out: Path) -> dict[str, Any]:
    """Label every assistant turn of the files.

    Args:
        config: the recipe's section.
        data: JSONL files of conversations, labelled or not; read as streams.
        model: folder of an attribute model.
        out: receives `<same name>.jsonl` per input, and `summary.json`. Called again after an interruption, it
            goes on behind the last window written; a file that is finished for the same model, settings and input
            is left as it is.

    Returns:
        The summary: counts, and per attribute histogram, correlations, and agreement with the human labels.

    Raises:
        UserError: no input, a missing or malformed file (with its line), two inputs of the same name, a data file
            with another schema than the model's, a full disk; several ranks, which would write the same files.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"annotate works in one process, but WORLD_SIZE is {os.environ['WORLD_SIZE']}: run it without accelerate "
            "launch or torchrun; to use several devices, split the data and annotate each part in a folder of its own"
        )
    targets = _targets(data, out)
    out.mkdir(parents=True, exist_ok=True)
    scorer = load_attribute_model(model, config.precision)
    keys = {target.name: _key(config, scorer, path) for path, target in targets.items()}
    _discard_stale(keys, out)
    for path, target in targets.items():
        if not target.is_file():
            _annotate_file(config, path, target, scorer, str(model))
    summary = {
        "model": scorer.fingerprint,
        "schema": scorer.schema.signature,
        **summarise(list(targets.values()), scorer.schema),
    }
    write_json(out / "summary.json", summary)
    return summary


def _targets(data: Sequence[Path], out: Path) -> dict[Path, Path]:
    """Return the output file of every input file."""
    if not data:
        raise UserError("annotate needs at least one data file")
    targets: dict[Path, Path] = {}
    for path in data:
        if not path.is_file():
            raise UserError(f"no such file: {path}")
        name = path.name.removesuffix(".gz").removesuffix(".jsonl") + ".jsonl"
        target = out / name
        for other, taken in targets.items():
            if taken == target:
                raise UserError(f"{other} and {path} would both be written to {target}; rename one of them")
        if target.exists() and target.samefile(path):
            raise UserError(f"{path} would be overwritten by its own annotation; choose another output folder")
        targets[path] = target
    return targets


def _key(config: AnnotateConfig, scorer: AttributeModel, path: Path) -> dict[str, Any]:
    """Return all that the bytes of an annotated file depend on."""
    with path.open("rb") as stream:
        digest = hashlib.file_digest(stream, "sha256").hexdigest()
    return {"model": scorer.fingerprint, **config.model_dump(mode="json"), "input_sha256": digest}


def _discard_stale(keys: Mapping[str, Any], out: Path) -> None:
    """Delete results of another model, other settings or another input, and record what the new ones depend on."""
    record = out / "inputs.json"
    stored = orjson.loads(record.read_bytes()) if record.is_file() else {}
    for name, key in keys.items():
        if stored.get(name) != key:
            (out / name).unlink(missing_ok=True)
            _partial(out / name).unlink(missing_ok=True)
    write_json(record, {**stored, **keys})


def _partial(target: Path) -> Path:
    return target.with_name(f"{target.name}.partial")


def _annotate_file(config: AnnotateConfig, path: Path, target: Path, scorer: AttributeModel, model: str) -> None:
    records = read_conversations(path, scorer.schema, schema_of=model)
    partial = _partial(target)
    finished = _resume(partial, records, config.window)
    windows = progress(_windows(records, config.window), None, f"annotate {path.name}")
    with full_disk_is_user_error(target), partial.open("ab") as stream:
        stream.truncate(finished)
        for window in windows:
            annotated = annotate_records(window, scorer, config.tokens_per_batch)
            stream.write(b"".join(to_json_line(conversation, scorer.schema) for conversation in annotated))
            stream.flush()
            os.fsync(stream.fileno())
        os.replace(partial, target)


def _resume(partial: Path, records: Iterator[Conversation], window: int) -> int:
    """Advance `records` behind the whole windows that `partial` holds and return their size in bytes.

    Raises:
        UserError: the partial file holds other records than the input.
    """
    if not partial.is_file():
        return 0
    whole = size = 0
    with partial.open("rb") as stream:
        lines = end = 0
        for line in stream:
            if _record_id(line) is None:
                break
            lines, end = lines + 1, end + len(line)
            if lines % window == 0:
                whole, size = lines, end
    with partial.open("rb") as stream:
        for number, (line, record) in enumerate(zip(stream, itertools.islice(records, whole), strict=False), 1):
            if _record_id(line) != record.id:
                raise UserError(f"{partial}:{number} does not hold the input's record {record.id!r}; delete the file")
    return size


def _record_id(line: bytes) -> str | None:
    """Return the id of a written record; None where the line was cut short or never reached the disk."""
    try:
        return str(orjson.loads(line)["id"]) if line.endswith(b"\n") else None
    except orjson.JSONDecodeError:
        return None


def _windows(items: Iterable[T], size: int) -> Iterator[list[T]]:
    iterator = iter(items)
    while window := list(itertools.islice(iterator, size)):
        yield window


def annotate_records(
    records: Sequence[Conversation], scorer: AttributeModel, tokens_per_batch: int
) -> list[Conversation]:
    """Label every assistant turn, each in the light of what was said before it and nothing after.

    A turn that does not fit the model's context loses its `attributes` (they would be on another scale than the rest).
    """
    turns = [(record, index) for record in records for index in record.assistant_turns]
    scores = iter(scorer.score([record.messages[: index + 1] for record, index in turns], tokens_per_batch))
    labelled_by = f"model:{scorer.fingerprint}"
    annotated = []
    for record in records:
        for index in record.assistant_turns:
            record = record.with_message(index, _label(record.messages[index], next(scores), scorer, labelled_by))
        annotated.append(record)
    return annotated


def _label(message: Message, scores: Mapping[str, Score] | None, scorer: AttributeModel, labelled_by: str) -> Message:
    human = message.human_labels or None
    if scores is None:
        return dataclasses.replace(message, attributes=None, human=human, scores=None, labelled_by=None)
    return dataclasses.replace(
        message,
        attributes=scorer.values(scores),
        human=human,
        scores={name: score.rounded() for name, score in scores.items()},
        labelled_by=labelled_by,
    )

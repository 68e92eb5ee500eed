"""Step 2: label every assistant turn with the attribute model (SteerLM, section 3.2).

    steerlm annotate RECIPE

The predictions replace the human labels as `attributes`, even on the data the human labels came from: that puts
all annotators and data sets on one scale. Human labels are kept beside them as `human`, real-valued predictions as
`scores`. Records are labelled in windows of fixed size that begin at fixed positions, so the batches, and with them
every bit of the output, depend neither on where a run was interrupted nor on which process labels a window: this one,
with others that read and encode ahead and a thread that writes, or the workers of a Ray cluster (`--ray`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, NamedTuple

import orjson

from steerlm.attributes import AttributeSchema
from steerlm.batching.flat_array import FlatArray
from steerlm.checkpoint.models import fingerprint, load_info
from steerlm.config import AnnotateConfig
from steerlm.conversation import Conversation, Message, parse_conversation, to_json_line
from steerlm.errors import UserError
from steerlm.scorers.attribute_models import LoadedAttributeModel, load_attribute_model
from steerlm.scorers.protocol import Scores
from steerlm.stages.annotate.summary import summarise
from steerlm.storage.ahead import read_ahead
from steerlm.storage.claims import claim, digest_of_file, partial_of
from steerlm.storage.cluster import Cluster, map_in_order
from steerlm.storage.files import atomic_writer, full_disk_is_user_error, read_lines, write_json
from steerlm.storage.progress import progress
from steerlm.storage.resumable import LineItems

Line = tuple[int, bytes]
"""A line of the input with its number."""


def annotate(
    config: AnnotateConfig, data: Sequence[Path], model: Path, out: Path, cluster: Cluster | None = None
) -> dict[str, Any]:
    """Label every assistant turn of the files.

    Args:
        config: the recipe's section.
        data: JSONL files of conversations, labelled or not; read as streams.
        model: folder of an attribute model.
        out: receives `<same name>.jsonl` per input, and `summary.json`. Called again after an interruption, it
            goes on behind the last window written; a file that is finished for the same model, settings and input
            is left as it is.
        cluster: where the windows are labelled; None = in this process. The files are the same.

    Returns:
        The summary: counts, and per attribute histogram, correlations, and agreement with the human labels.

    Raises:
        UserError: no input, a missing or malformed file (with its line), two inputs of the same name, a data file
            with another schema than the model's, a full disk; several ranks, which would write the same files.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise UserError(
            f"annotate works in one process, but WORLD_SIZE is {os.environ['WORLD_SIZE']}: run it without accelerate "
            "launch or torchrun; several devices work together with --ray"
        )
    targets = _targets(data, out)
    out.mkdir(parents=True, exist_ok=True)
    labeller = _labeller(config, model, cluster)
    keys = {target.name: _key(config, labeller, path) for path, target in targets.items()}
    claim(out / "inputs.json", keys, otherwise="replace", outputs={path.name: path for path in targets.values()})
    for path, target in targets.items():
        if not target.is_file():
            _annotate_file(config, path, target, labeller, cluster)
    summary = {
        "model": labeller.fingerprint,
        "schema": labeller.schema.signature,
        **summarise(list(targets.values()), labeller.schema),
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


def _key(config: AnnotateConfig, labeller: Labeller, path: Path) -> dict[str, Any]:
    """Return all that the bytes of an annotated file depend on."""
    settings = config.model_dump(mode="json")
    return {"model": labeller.fingerprint, **settings, "input_sha256": digest_of_file(path)}


class Window(NamedTuple):
    """A window as the model needs it.

    Attributes:
        lines: the records' lines.
        rows: the ids of every assistant turn in turn; empty where it does not fit the model's context.
    """

    lines: list[Line]
    rows: FlatArray


class ScoredWindow(NamedTuple):
    """A window with the scores of every assistant turn; None where it did not fit."""

    lines: list[Line]
    scores: list[Scores | None]


@dataclasses.dataclass
class Labeller:
    """What is done with a window, step by step; each step may be done by another process than the one before.

    Attributes:
        config: the recipe's section.
        model: folder of the attribute model.
        fingerprint: of the model.
        schema: of the model.
        scorer: the model; None until a worker loads it.
    """

    config: AnnotateConfig
    model: Path
    fingerprint: str
    schema: AttributeSchema
    scorer: LoadedAttributeModel | None

    def loaded(self) -> LoadedAttributeModel:
        """Return the model."""
        if self.scorer is None:
            self.scorer = load_attribute_model(self.model, self.config.precision)
        return self.scorer

    def parse(self, path: Path, lines: Sequence[Line]) -> list[Conversation]:
        """Return the records of the lines of a file.

        Raises:
            UserError: a malformed record or one with another schema, with its place.
        """
        found = [parse_conversation(line, path, n, self.schema, None, str(self.model)) for n, line in lines]
        return [record for record in found if record is not None]

    def encode(self, path: Path, lines: list[Line]) -> Window:
        """Read the lines of a file: needs no more of the model than its tokenizer."""
        scorer = self.loaded()
        turns = (record.messages[: i + 1] for record in self.parse(path, lines) for i in record.assistant_turns)
        # one by one: lists of numbers take nine times the memory of the array
        return Window(lines, FlatArray(scorer.encode([turn])[0] or () for turn in turns))

    def score(self, window: Window) -> ScoredWindow:
        """Let the model work."""
        rows = [row if len(row) else None for row in map(window.rows.__getitem__, range(len(window.rows)))]
        return ScoredWindow(window.lines, self.loaded().score_encoded(rows, self.config.tokens_per_batch))

    def label(self, path: Path, window: ScoredWindow) -> bytes:
        """Return the labelled records as lines."""
        records = labelled(self.parse(path, window.lines), window.scores, self.loaded())
        return b"".join(to_json_line(record, self.schema) for record in records)


def _labeller(config: AnnotateConfig, model: Path, cluster: Cluster | None) -> Labeller:
    if cluster is None:
        scorer = load_attribute_model(model, config.precision)
        return Labeller(config, model, scorer.fingerprint, scorer.schema, scorer)
    info = load_info(model)  # the workers load the model; this process may have no GPU
    return Labeller(config, model.resolve(), fingerprint(model), info.schema, None)


def _annotate_file(
    config: AnnotateConfig, path: Path, target: Path, labeller: Labeller, cluster: Cluster | None
) -> None:
    with _unpacked(path, target) as plain:
        items = LineItems(plain if cluster is None else plain.resolve(), _numbered)
        partial = partial_of(target)
        done, size = _resume(partial, items, config.window)
        windows = range(done, -(-len(items) // config.window))

        def encode(number: int) -> Window:
            return labeller.encode(path, items[number * config.window : (number + 1) * config.window])

        def work(number: int) -> bytes:
            return labeller.label(path, labeller.score(encode(number)))

        with full_disk_is_user_error(target), partial.open("ab") as stream:
            stream.truncate(size)
            bar = f"annotate {path.name}"
            if cluster is not None:
                for block in progress(map_in_order(cluster, work, windows), len(windows), bar):
                    _write(stream, block)
            else:
                scored = map(labeller.score, read_ahead(encode, windows))
                _label_and_write(progress(scored, len(windows), bar), stream, path, labeller)
        os.replace(partial, target)


def _label_and_write(windows: Iterator[ScoredWindow], stream: IO[bytes], path: Path, labeller: Labeller) -> None:
    """Label and write a window in a thread while the next one is scored; both end before this returns or raises."""

    def write(window: ScoredWindow) -> None:
        _write(stream, labeller.label(path, window))

    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for window in windows:
            if written is not None:
                written.result()  # before the next one: nothing may be written behind a window that failed
            written = writer.submit(write, window)
        if written is not None:
            written.result()


def _write(stream: IO[bytes], block: bytes) -> None:
    stream.write(block)
    stream.flush()
    os.fsync(stream.fileno())


@contextlib.contextmanager
def _unpacked(path: Path, target: Path) -> Iterator[Path]:
    """Return the file, or an unpacked copy beside the target for the time being: windows are read from their place."""
    if path.suffix != ".gz":
        yield path
        return
    copy = target.with_name(f"{target.name}.input")
    try:
        with atomic_writer(copy) as stream:
            previous = 0
            for number, line in read_lines(path):
                stream.write(b"\n" * (number - previous - 1) + line)  # blank lines stay, for the numbers
                previous = number
        yield copy
    finally:
        copy.unlink(missing_ok=True)


def _numbered(number: int, line: bytes) -> Line:
    return number, line


def _resume(partial: Path, items: LineItems[Line], window: int) -> tuple[int, int]:
    """Return how many whole windows `partial` holds, and their size in bytes.

    Raises:
        UserError: the partial file holds other records than the input.
    """
    if not partial.is_file():
        return 0, 0
    done = size = 0
    with partial.open("rb") as stream:
        lines = end = 0
        for line in stream:
            if _record_id(line) is None:
                break
            lines, end = lines + 1, end + len(line)
            if lines % window == 0:
                done, size = done + 1, end
        stream.seek(0)
        for number in range(done):
            for i, (_, expected) in enumerate(items[number * window : (number + 1) * window], number * window + 1):
                wanted = _record_id(expected.rstrip() + b"\n")  # the last line of a file may lack its end
                if _record_id(stream.readline()) != wanted:
                    raise UserError(f"{partial}:{i} does not hold the input's record {wanted!r}; delete the file")
    return done, size


def _record_id(line: bytes) -> str | None:
    """Return the id of a record; None where the line was cut short, is malformed or never reached the disk."""
    try:
        return str(orjson.loads(line)["id"]) if line.endswith(b"\n") else None
    except orjson.JSONDecodeError:
        return None


def annotate_records(
    records: Sequence[Conversation], scorer: LoadedAttributeModel, tokens_per_batch: int | None = None
) -> list[Conversation]:
    """Label every assistant turn, each in the light of what was said before it and nothing after.

    A turn that does not fit the model's context loses its `attributes` (they would be on another scale than the rest).
    """
    turns = [record.messages[: index + 1] for record in records for index in record.assistant_turns]
    return labelled(records, scorer.score(turns, tokens_per_batch), scorer)


def labelled(
    records: Sequence[Conversation], scores: Sequence[Scores | None], scorer: LoadedAttributeModel
) -> list[Conversation]:
    """Return the records with the scores of all their assistant turns, as labels."""
    remaining = iter(scores)
    return [
        dataclasses.replace(
            record,
            messages=tuple(
                _label(message, next(remaining), scorer) if message.role == "assistant" else message
                for message in record.messages
            ),
        )
        for record in records
    ]


def _label(message: Message, scores: Scores | None, scorer: LoadedAttributeModel) -> Message:
    human = message.stated_labels or None  # ratings stay as they are
    if scores is None:
        return dataclasses.replace(message, attributes=None, human=human, scores=None, labelled_by=None)
    return dataclasses.replace(
        message,
        attributes=scorer.values(scores),
        human=human,
        scores={name: score.rounded() for name, score in scores.items()},
        labelled_by=scorer.who,
    )

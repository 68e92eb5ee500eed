"""Step 2: label every assistant turn, each attribute by who says it (SteerLM, section 3.2).

    steerlm annotate RECIPE

Measures and classifiers say their attributes, the attribute model the others. Its predictions replace the human labels
as `attributes`, even on the data the human labels came from: that puts all annotators and data sets on one scale
(`labels: missing` keeps what people said). Human labels are kept beside them as `human`, real-valued predictions as
`scores`. Records are labelled in windows of fixed size that begin at fixed positions, so the batches, and with them
every bit of the output, depend neither on where a run was interrupted nor on which process labels a window: this one,
with others that read and encode ahead and a thread that writes, or the workers of a Ray cluster (`--ray`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import orjson

from steerlm.attributes import AttributeSchema, Value
from steerlm.batching.flat_array import FlatArray
from steerlm.checkpoint.models import load_info
from steerlm.config import AnnotateConfig
from steerlm.conversation import Conversation, Message, parse_conversation, to_json_line
from steerlm.errors import UserError, refuse_ranks
from steerlm.scorers.dials import without_own_measures
from steerlm.scorers.labelling import SchemaLabels, one_for_all, open_labels
from steerlm.scorers.protocol import Scores
from steerlm.scorers.spread import open_attribute_model
from steerlm.stages.annotate.summary import summarise
from steerlm.storage.ahead import read_ahead
from steerlm.storage.claims import claim, digest_of_file, partial_of
from steerlm.storage.cluster import Cluster, map_in_order
from steerlm.storage.files import atomic_writer, lines_name, read_lines, write_json
from steerlm.storage.progress import progress
from steerlm.storage.resumable import LineItems, growing_file, whole_chunks

Line = tuple[int, bytes]
"""A line of the input with its number."""


def annotate(
    config: AnnotateConfig,
    data: Sequence[Path],
    model: Path | None,
    out: Path,
    cluster: Cluster | None = None,
    schema: AttributeSchema | None = None,
) -> dict[str, Any]:
    """Label every assistant turn of the files.

    Args:
        data: JSONL files of conversations, labelled or not; read as streams.
        model: folder of an attribute model; None where no attribute needs one.
        out: receives `<same name>.jsonl` per input, and `summary.json`. Called again after an interruption, it
            goes on behind the last window written; a file that is finished for the same model, settings and input
            is left as it is.
        cluster: where the windows are labelled; None = in this process. The files are the same.
        schema: the attributes, with the cut points of those that are measured; None: the model's.

    Returns:
        The summary: counts, who says each attribute, and per attribute histogram, correlations, and agreement with
        the human labels.

    Raises:
        UserError: no input, a missing or malformed file (with its line), two inputs of the same name, a data file
            with another schema than the model's, a full disk; several ranks, which would write the same files.
    """
    refuse_ranks("annotate", "several devices work together with --ray")
    targets = _targets(data, out)
    out.mkdir(parents=True, exist_ok=True)
    if cluster is not None:
        cluster = dataclasses.replace(cluster, devices=config.devices_per_model)
    labeller = _labeller(config, model, cluster, schema)
    keys = {target.name: _key(config, labeller, path) for path, target in targets.items()}
    claim(out / "inputs.json", keys, otherwise="replace", outputs={path.name: path for path in targets.values()})
    for path, target in targets.items():
        if not target.is_file():
            _annotate_file(config, path, target, labeller, cluster)
    labels = labeller.labels
    summary = {
        "model": labels.fingerprint or None,
        "schema": labels.schema.signature,
        "said_by": {a.name: a.measure if a.measure else a.said_by for a in labels.schema},
        **summarise(list(targets.values()), labels.schema, labels.schema.learned if labels.fingerprint else None),
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
        target = out / lines_name(path)
        for other, taken in targets.items():
            if taken == target:
                raise UserError(f"{other} and {path} would both be written to {target}; rename one of them")
        if target.exists() and target.samefile(path):
            raise UserError(f"{path} would be overwritten by its own annotation; choose another output folder")
        targets[path] = target
    return targets


def _key(config: AnnotateConfig, labeller: Labeller, path: Path) -> dict[str, Any]:
    """Return all that the bytes of an annotated file depend on."""
    settings = config.model_dump(mode="json", exclude={"devices_per_model"})
    return {"model": labeller.labels.key, **settings, "input_sha256": digest_of_file(path)}


class Window(NamedTuple):
    """A window as the models need it.

    Attributes:
        rows: the ids of every assistant turn in turn; empty where it does not fit the attribute model's context.
        measured: what the measures say of every assistant turn.
    """

    lines: list[Line]
    rows: FlatArray
    measured: list[Scores | None]


class ScoredWindow(NamedTuple):
    """A window with the scores of every assistant turn; None where nothing can be said of one."""

    lines: list[Line]
    scores: list[Scores | None]


@dataclasses.dataclass
class Labeller:
    """What is done with a window, step by step; each step may be done by another process than the one before.

    Attributes:
        config: the recipe's section.
        labels: what says the values; its models are loaded where they are needed.
    """

    config: AnnotateConfig
    labels: SchemaLabels

    def parse(self, path: Path, lines: Sequence[Line]) -> list[Conversation]:
        """Return the records of the lines of a file.

        Raises:
            UserError: a malformed record or one with another schema, with its place.
        """
        mine, whose = self.labels.schema, str(self.labels.model_path or "the recipe")
        return [parse_conversation(line, path, number, mine, whose) for number, line in lines]

    def encode(self, path: Path, lines: list[Line]) -> Window:
        """Read the lines of a file: needs no more of the attribute model than its tokenizer."""
        turns, model, measures = _turns(self.parse(path, lines)), self.labels.model, self.labels.measures
        # one by one: lists of numbers take nine times the memory of the array
        rows = FlatArray(() if model is None else model.encode([turn])[0] or () for turn in turns)
        return Window(lines, rows, [] if measures is None else measures.score(turns))

    def score(self, path: Path, window: Window) -> ScoredWindow:
        """Let the models work."""
        rows = [row if len(row) else None for row in map(window.rows.__getitem__, range(len(window.rows)))]
        model = self.labels.model
        nothing: list[Scores | None] = [None] * len(rows)
        learned = nothing if model is None else model.score_encoded(rows, self.config.tokens_per_batch)
        turns = _turns(self.parse(path, window.lines)) if self.labels.classifiers else [()] * len(rows)
        return ScoredWindow(window.lines, self.labels.merge(turns, learned, window.measured or nothing))

    def label(self, path: Path, window: ScoredWindow) -> bytes:
        """Return the labelled records as lines."""
        keep = self.config.labels == "missing"
        records = labelled(self.parse(path, window.lines), window.scores, self.labels, keep)
        return b"".join(to_json_line(record, self.labels.schema) for record in records)


def _turns(records: Sequence[Conversation]) -> list[tuple[Message, ...]]:
    return [record.messages[: i + 1] for record in records for i in record.assistant_turns]


def _labeller(
    config: AnnotateConfig, model: Path | None, cluster: Cluster | None, schema: AttributeSchema | None
) -> Labeller:
    if schema is None:
        assert model is not None, "an attribute model or a schema says the values"
        schema = without_own_measures(load_info(model).schema) if cluster is not None else None
    if schema is not None and cluster is not None:  # the workers load the models; this process may have no GPU
        there = None if model is None else model.resolve()
        labels = open_labels(schema, there, config.precision, devices=config.devices_per_model, engine=config.engine)
        return Labeller(config, labels)
    scorer = None
    if model is not None:
        scorer = open_attribute_model(model, config.precision, config.devices_per_model, config.engine)
    if schema is None:
        assert scorer is not None
        schema = without_own_measures(scorer.schema)
    return Labeller(config, open_labels(schema, model, config.precision, scorer))


def _annotate_file(
    config: AnnotateConfig, path: Path, target: Path, labeller: Labeller, cluster: Cluster | None
) -> None:
    with _unpacked(path, target) as plain:
        items = LineItems(plain if cluster is None else plain.resolve(), _numbered)
        done, size = whole_chunks(target, config.window)
        _require_same(target, items, done)
        windows = range(done // config.window, -(-len(items) // config.window))

        def encode(number: int) -> Window:
            return labeller.encode(path, items[number * config.window : (number + 1) * config.window])

        def work(number: int) -> bytes:
            return labeller.label(path, labeller.score(path, encode(number)))

        with growing_file(target, size) as write:
            bar = f"annotate {path.name}"
            if cluster is not None:
                for block in progress(map_in_order(cluster, work, windows), len(windows), bar):
                    write(block)
            else:
                scored = (labeller.score(path, window) for window in read_ahead(encode, windows))
                _write_behind(progress(scored, len(windows), bar), lambda window: write(labeller.label(path, window)))


def _write_behind(windows: Iterator[ScoredWindow], write: Callable[[ScoredWindow], None]) -> None:
    """Label and write a window in a thread while the next one is scored; both end before this returns or raises."""
    with ThreadPoolExecutor(1) as writer:
        written: Future[None] | None = None
        for window in windows:
            if written is not None:
                written.result()  # before the next one: nothing may be written behind a window that failed
            written = writer.submit(write, window)
        if written is not None:
            written.result()


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


def _require_same(target: Path, items: LineItems[Line], done: int) -> None:
    """Refuse to go on behind other records than the first ones of the input."""
    if not done:
        return
    partial = partial_of(target)
    with partial.open("rb") as stream:
        for i, (_, expected) in enumerate(itertools.islice(items, done), 1):
            wanted = _record_id(expected.rstrip() + b"\n")  # the last line of a file may lack its end
            if _record_id(stream.readline()) != wanted:
                raise UserError(f"{partial}:{i} does not hold the input's record {wanted!r}; delete the file")


def _record_id(line: bytes) -> str | None:
    """Return the id of a record; None where the line was cut short, is malformed or never reached the disk."""
    try:
        return str(orjson.loads(line)["id"]) if line.endswith(b"\n") else None
    except orjson.JSONDecodeError:
        return None


def labelled(
    records: Sequence[Conversation], scores: Sequence[Scores | None], labels: SchemaLabels, keep: bool
) -> list[Conversation]:
    """Return the records with the scores of all their assistant turns, as labels.

    A turn without scores (it does not fit the model's context) loses its `attributes`: they would be on another scale
    than the rest.

    Args:
        scores: of every assistant turn; None where nothing can be said of one.
        keep: leave what people labelled as it is.
    """
    remaining = iter(scores)
    return [
        dataclasses.replace(
            record,
            messages=tuple(
                _label(message, next(remaining), labels, keep) if message.role == "assistant" else message
                for message in record.messages
            ),
        )
        for record in records
    ]


def _label(message: Message, scores: Scores | None, labels: SchemaLabels, keep: bool) -> Message:
    scores, who, schema = scores or {}, labels.who, labels.schema
    said: dict[str, Value] = labels.values(scores) if scores else {}
    # what people said stays where nothing else says it, or where it is not to be replaced
    kept = {n: v for n, v in message.human_labels.items() if schema[n].learned and (keep or n not in who)}
    said |= kept
    values = {name: said[name] for name in schema.names if name in said}
    return dataclasses.replace(
        message,
        attributes=values or None,
        human=message.stated_labels or None,  # ratings stay as they are
        scores={name: score.rounded() for name, score in scores.items() if name not in kept} or None,
        labelled_by=one_for_all({name: "human" if name in kept else who[name] for name in values}),
    )

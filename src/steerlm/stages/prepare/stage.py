"""Import, check, deduplicate and split the data of a run (SteerLM, section 4.1).

    steerlm prepare RECIPE

Writes `train.jsonl`, `validation.jsonl` and `report.json`. The sources are streamed: memory holds some hashes per
record (about 100 bytes), never the text. The split is by group (a prompt or a tree), never by row, and depends on the
seed and the group alone: a group stays on its side whatever other data are added.
"""

from __future__ import annotations

import hashlib
from array import array
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import IO, NamedTuple, NotRequired, TypedDict

from steerlm.attributes import AttributeSchema
from steerlm.config import PrepareConfig, SourceConfig, TrainSftConfig
from steerlm.conversation import Conversation, to_json_line
from steerlm.errors import UserError
from steerlm.sources import read_source
from steerlm.sources.draft import prompt_group
from steerlm.sources.rows import BadRecords
from steerlm.stages.prepare.dials import FittedDials, fit_schema
from steerlm.stages.prepare.leaks import NUM_WORDS, EvaluationPrompts, load_evaluation_prompts
from steerlm.storage.files import atomic_writer, write_json
from steerlm.storage.hash_set import HashSet, hash64
from steerlm.storage.progress import progress

_EXAMPLES = 20


@dataclass
class SourceCounts:
    """What became of one source.

    Attributes:
        read: conversations that could be read.
        bad: records that could not (only with `skip_bad_records`).
        no_response: dropped, since they hold no assistant turn.
        leaks: dropped, since user turns equal an evaluation prompt.
        near_leaks: dropped, since a user turn shares 13 consecutive words with one.
        duplicates: dropped, since the same messages with the same weights and labels (or labels where these have
            none) occurred before.
        doubled_ids: kept, under their id and a number, since the id had occurred before.
        responses_read: assistant turns of all that was read.
        responses: assistant turns kept.
        untrained_responses: those of them that are context only (weight 0).
        repeated_responses: those of them that occurred before with the same history (paths of one tree).
        labelled: kept assistant turns with a label, by attribute.
        left_out: labels whose attribute the schema lacks, by name, and other things the importer left out.
        train: records in `train.jsonl`.
        validation: records in `validation.jsonl`.
    """

    read: int = 0
    bad: BadRecords = field(default_factory=BadRecords)
    no_response: int = 0
    leaks: int = 0
    near_leaks: int = 0
    duplicates: int = 0
    doubled_ids: int = 0
    responses_read: int = 0
    responses: int = 0
    untrained_responses: int = 0
    repeated_responses: int = 0
    labelled: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    train: int = 0
    validation: int = 0

    def to_dict(self, schema: AttributeSchema) -> dict[str, object]:
        """Return the JSON form: the first examples of bad records, names in a fixed order."""
        return {
            **vars(self),
            "bad": {
                "count": self.bad.count,
                "reasons": dict(self.bad.reasons.most_common()),
                "examples": self.bad.examples[:_EXAMPLES],
            },
            "labelled": {name: self.labelled[name] for name in schema.names},
            "left_out": dict(sorted(self.left_out.items())),
        }

    @property
    def records(self) -> int:
        """All records there were, readable or not."""
        return self.read + self.bad.count

    def losses(self) -> Iterator[LeftOut]:
        """Yield everything that was left out, by reason."""
        for reason, count in self.bad.reasons.most_common():
            yield LeftOut(f"bad records: {reason}", count, self.records)
        for reason, count in (
            ("records without a response", self.no_response),
            ("records that hold an evaluation prompt", self.leaks),
            (f"records that share {NUM_WORDS} words with an evaluation prompt", self.near_leaks),
            ("duplicates", self.duplicates),
        ):
            yield LeftOut(reason, count, self.records)
        for name, count in sorted(self.left_out.items()):
            reason = name[1:-1] if name.startswith("(") else f"labels {name}, which the schema lacks"
            yield LeftOut(reason, count, max(self.records, self.responses_read))


@dataclass(frozen=True)
class LeftOut:
    """How much was left out for one reason, of how many records (or responses, where there are more of these)."""

    reason: str
    count: int
    of: int

    @property
    def grave(self) -> bool:
        """Whether it is more than 1 %."""
        return 100 * self.count > self.of

    def __str__(self) -> str:
        return f"{self.reason}: {self.count:,} left out ({100 * self.count / max(self.of, self.count):.1f} %)"


class PreparedReport(TypedDict):
    """The content of `report.json`; `losses` and `warnings` are lines for the terminal."""

    schema: str
    seed: int
    validation_fraction: float
    train: dict[str, int]
    validation: dict[str, int]
    prompts_on_both_sides: int
    evaluation_prompts: dict[str, object]
    sources: dict[str, dict[str, object]]
    labelled: dict[str, int]
    losses: list[str]
    warnings: list[str]
    dials: NotRequired[FittedDials]


class _Hashes(NamedTuple):
    """Hashes of a conversation.

    Attributes:
        texts: of its texts and weights.
        labelled: of them and the labels; None where no message has one.
        responses: of the history up to each response.
    """

    texts: int
    labelled: int | None
    responses: list[int]


class _Staged(NamedTuple):
    """What is remembered of each staged record, in order: 18 bytes."""

    groups: array[int]
    prompts: array[int]
    sources: array[int]


def prepare(
    config: PrepareConfig,
    schema: AttributeSchema,
    out: Path,
    seed: int,
    training: TrainSftConfig | None = None,
) -> PreparedReport:
    """Prepare the data of a run; running it again gives byte-identical files.

    Args:
        schema: the labels are mapped onto it or checked against it.
        out: folder for `train.jsonl`, `validation.jsonl` and `report.json`, each written atomically.
        seed: with the group it decides the side of the split.
        training: the fine-tuning that the data are for, see `fit_schema`.

    Returns:
        The content of `report.json`.

    Raises:
        UserError: a bad record (unless skipped), a missing file, a schema mismatch, no record left, a full disk.
    """
    out.mkdir(parents=True, exist_ok=True)
    for leftover in out.glob(".*.partial"):  # of a run that was killed
        leftover.unlink()
    prompts = load_evaluation_prompts(config.evaluation_prompts)
    staging = out / ".staged.jsonl"
    counts = {source.name: SourceCounts() for source in config.sources}
    try:
        with atomic_writer(staging) as stream:
            staged = _stage(config, schema, prompts, seed, counts, stream)
        if not staged.groups:
            raise UserError("no record is left to train on: " + "; ".join(_warnings(counts, 0, 1)))
        threshold = _threshold(staged.groups, config.validation_fraction)
        _route(staging, staged, threshold, out, list(counts.values()))
    finally:
        staging.unlink(missing_ok=True)
    report = _report(config, schema, seed, counts, prompts, staged, threshold)
    if not all(attribute.learned for attribute in schema):
        report["dials"] = fit_schema(out / "train.jsonl", schema, out, training)
    write_json(out / "report.json", report)
    return report


def _stage(
    config: PrepareConfig,
    schema: AttributeSchema,
    prompts: EvaluationPrompts,
    seed: int,
    counts: Mapping[str, SourceCounts],
    stream: IO[bytes],
) -> _Staged:
    """Write every record that is kept to the staging file, in order."""
    staged = _Staged(array("Q"), array("Q"), array("H"))
    texts, labelled, responses, ids = HashSet(), HashSet(), HashSet(), HashSet()
    for number, source in enumerate(config.sources):
        count = counts[source.name]
        bad = count.bad if config.skip_bad_records else None
        conversations = read_source(source, schema, bad, count.left_out)
        for conversation in progress(conversations, source.max_records, f"prepare {source.name}"):
            hashes = _hashes(conversation)
            count.read += 1
            count.responses_read += len(hashes.responses)
            known = hashes.texts in texts if hashes.labelled is None else hashes.labelled in labelled
            if not hashes.responses:
                count.no_response += 1
            elif (overlap := prompts.find(conversation.messages)) is not None:
                count.leaks += overlap == "leak"
                count.near_leaks += overlap == "near_leak"
            elif config.deduplicate and known:
                count.duplicates += 1
            else:
                texts.add(hashes.texts)
                if hashes.labelled is not None:
                    labelled.add(hashes.labelled)
                _count_labels(count, conversation)
                count.repeated_responses += sum(not responses.add(response) for response in hashes.responses)
                if not ids.add(hash64(conversation.id)):
                    count.doubled_ids += 1
                    # ids are keys of the later stages; the position makes a double one unique and stays the same
                    conversation = replace(conversation, id=f"{conversation.id}#{len(staged.sources)}")
                    while not ids.add(hash64(conversation.id)):
                        conversation = replace(conversation, id=f"{conversation.id}#{len(staged.sources)}")
                staged.groups.append(_draw(seed, conversation.group or ""))
                staged.prompts.append(_draw(seed, prompt_group(conversation.messages)))
                staged.sources.append(number)
                stream.write(to_json_line(conversation, schema))
    return staged


def _hashes(conversation: Conversation) -> _Hashes:
    """Hash what is trained on: exact texts (white space matters: think of code), weights and labels."""
    state, labelled = hashlib.blake2b(digest_size=8), hashlib.blake2b(digest_size=8)
    responses, any_label = [], False
    for message in conversation.messages:
        state.update(f"{message.role}\0{message.weight}\0{len(message.content)}\0{message.content}".encode())
        if message.role == "assistant":
            responses.append(int.from_bytes(state.digest(), "big"))
            labels = [message.attributes or {}, message.human or {}, message.ratings or {}]
            any_label = any_label or any(labels)
            labelled.update(repr([*(sorted(given.items()) for given in labels), message.labelled_by]).encode())
    texts = int.from_bytes(state.digest(), "big")
    return _Hashes(texts, int.from_bytes(labelled.digest(), "big") ^ texts if any_label else None, responses)


def _count_labels(count: SourceCounts, conversation: Conversation) -> None:
    for message in conversation.messages:
        if message.role == "assistant":
            count.responses += 1
            count.untrained_responses += message.weight == 0
            count.labelled.update({*(message.attributes or ()), *(message.human or ()), *(message.ratings or ())})


def _draw(seed: int, group: str) -> int:
    """Return the group's lot: uniform on 0..2**64 - 1; the lowest lots go to validation."""
    return hash64(str(seed), group)


def _threshold(lots: array[int], fraction: float) -> int:
    """Return the lot below which a group goes to validation, so that both sides get a group where there are two."""
    threshold = int(fraction * 2**64)
    lowest, highest = min(lots), max(lots)
    if lowest == highest:
        return 0
    return min(max(threshold, lowest + 1), highest)


def _route(staging: Path, staged: _Staged, threshold: int, out: Path, counts: Sequence[SourceCounts]) -> None:
    """Copy the staged records to their side of the split."""
    with (
        staging.open("rb") as lines,
        atomic_writer(out / "train.jsonl") as train,
        atomic_writer(out / "validation.jsonl") as validation,
    ):
        for line, lot, source in zip(lines, staged.groups, staged.sources, strict=True):
            if lot < threshold:
                validation.write(line)
                counts[source].validation += 1
            else:
                train.write(line)
                counts[source].train += 1


def _report(
    config: PrepareConfig,
    schema: AttributeSchema,
    seed: int,
    counts: Mapping[str, SourceCounts],
    prompts: EvaluationPrompts,
    staged: _Staged,
    threshold: int,
) -> PreparedReport:
    import numpy as np

    held_out = np.frombuffer(staged.groups, dtype=np.uint64) < np.uint64(threshold)
    groups = np.unique(np.frombuffer(staged.groups, dtype=np.uint64))
    lots = np.frombuffer(staged.prompts, dtype=np.uint64)
    both = int(np.intersect1d(lots[held_out], lots[~held_out]).size)
    num_held_out = int((groups < np.uint64(threshold)).sum())
    return {
        "schema": schema.signature,
        "seed": seed,
        "validation_fraction": config.validation_fraction,
        "train": {"records": int((~held_out).sum()), "groups": int(groups.size) - num_held_out},
        "validation": {"records": int(held_out.sum()), "groups": num_held_out},
        "prompts_on_both_sides": both,
        "evaluation_prompts": {
            "files": [str(file) for file in config.evaluation_prompts],
            "prompts": len(prompts.exact),
            "leak": "user turns equal an evaluation prompt, turn by turn (case, punctuation and whitespace aside)",
            "near_leak": f"a user turn shares {NUM_WORDS} consecutive words with one",
        },
        "sources": {name: count.to_dict(schema) for name, count in counts.items()},
        "labelled": {name: sum(count.labelled[name] for count in counts.values()) for name in schema.names},
        "losses": [f"{name}: {loss}" for name, count in counts.items() for loss in count.losses() if loss.count],
        "warnings": _warnings(counts, both, num_held_out),
    }


def _warnings(counts: Mapping[str, SourceCounts], both: int, num_held_out: int) -> list[str]:
    """Return what a person should look at before training, in words."""
    out = []
    for name, count in counts.items():
        kept = count.train + count.validation
        if not kept:
            out.append(f"{name}: no record is left of {count.read} read and {count.bad.count} bad ones")
        elif count.leaks + count.near_leaks > kept:
            out.append(
                f"{name}: more records leak evaluation prompts than are left ({kept}); are the prompts templates?"
            )
        out += [f"{name}: {loss}" for loss in count.losses() if loss.grave]
        if count.doubled_ids:
            out.append(f"{name}: {count.doubled_ids} ids had occurred before; the records have a # and a number behind")
        lost = {key: number for key, number in count.left_out.items() if not key.startswith("(")}
        if lost and not count.labelled:
            out.append(f"{name}: none of its labels is in the schema ({', '.join(sorted(lost))})")
    if not num_held_out:
        out.append("validation.jsonl is empty: there is only one prompt")
    if both:
        out.append(f"{both} prompts are in train.jsonl and in validation.jsonl: the records' own groups say so")
    return out


@dataclass
class SourceLook:
    """What a look at a source found.

    Attributes:
        responses: their assistant turns.
        bad: records that cannot be read.
        first_error: the first one's, with its place; None where all is well.
        left_out: as in `report.json`.
        complete: whether the end was reached.
    """

    records: int = 0
    responses: int = 0
    characters: int = 0
    bad: int = 0
    first_error: str | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    complete: bool = True


def inspect_source(source: SourceConfig, schema: AttributeSchema) -> SourceLook:
    """Read a source without writing anything, for the dry run.

    Args:
        schema: its labels are checked against it.
    """
    bad, seen = BadRecords(), SourceLook()
    try:
        for conversation in read_source(source, schema, bad, seen.left_out):
            seen.records += 1
            seen.responses += len(conversation.assistant_turns)
            seen.characters += sum(len(message.content) for message in conversation.messages)
    except UserError as error:
        seen.first_error, seen.complete = str(error), False
    seen.bad = bad.count
    seen.first_error = bad.examples[0] if bad.examples else seen.first_error
    return seen

"""Public data sets and formats, one file each, read into conversations (SteerLM, section 4.1).

for conversation in read_source(SourceConfig(name="hh", format="hh_rlhf", path=...), schema): ...
"""

from __future__ import annotations

import csv
import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace

from steerlm.attributes import AttributeSchema, is_signature
from steerlm.config import SourceConfig, SourceFormat
from steerlm.conversation import Conversation
from steerlm.errors import UserError, did_you_mean
from steerlm.sources import alpaca, helpsteer, hh_rlhf, messages, nemo, oasst, sharegpt, table
from steerlm.sources.draft import Draft, JsonObject, Labelled, Labels, absent, prompt_group, with_ratings
from steerlm.sources.nemo import export_nemo
from steerlm.sources.rows import BadRecords, ColumnNames, SourceRow, read_rows, reject
from steerlm.sources.turns import ROW_FLAGS, trained_flag

__all__ = ["IMPORTERS", "export_nemo", "parse_columns", "read_source"]

Importer = Callable[[object, Labels], Iterator[Draft]]

IMPORTERS: dict[SourceFormat, Importer] = {
    "messages": messages.convert,
    "oasst": oasst.convert,
    "helpsteer": helpsteer.convert,
    "hh_rlhf": hh_rlhf.convert,
    "self_identification": sharegpt.convert,
    "nemo": nemo.convert,
    "sharegpt": sharegpt.convert,
    "alpaca": alpaca.convert,
    "table": table.convert,
}

_TURNS = frozenset({"conversations", "conversation", "messages", "system", "id"})
_READ: dict[SourceFormat, frozenset[str]] = {
    "helpsteer": frozenset({"prompt", "response", "id", *helpsteer.ATTRIBUTES}),
    "hh_rlhf": frozenset({"chosen", "rejected"}),
    "self_identification": _TURNS,
    "nemo": frozenset({"conversations", "system", "mask", "type", "id", "dataset", "schema"}),
    "sharegpt": _TURNS,
    "alpaca": frozenset({"instruction", "input", "output", "system", "history", "id", "text"}),
    "table": frozenset({"prompt", "response", "system", "id", "group"}),
    "messages": frozenset({"messages", "id", "group"}),
    "oasst": frozenset({"message_tree_id", "message_id", "parent_id", "text", "role", "labels", "deleted", "prompt"}),
}
"""What an importer reads of a row. `messages` keeps all other columns; OASST's other columns are not ours to judge."""
_COMPARING: tuple[SourceFormat, ...] = ("hh_rlhf", "oasst")
"""Formats in which people compared responses to one prompt."""
_PROMPT_AND_RESPONSE: dict[SourceFormat, tuple[str, str]] = {"alpaca": ("instruction", "output")}
_RATING = "rating."

_LOG = logging.getLogger(__name__)


def read_source(
    source: SourceConfig,
    schema: AttributeSchema,
    bad: BadRecords | None = None,
    dropped: Counter[str] | None = None,
) -> Iterator[Conversation]:
    """Stream the conversations of a source, in constant memory and always in the same order.

    A conversation's id is the data's own id, else `<source name>/<row number>`; its group is a hash of the normalised
    first prompt (an OASST tree has one first prompt, so a tree has one group), unless the record has its own.

    Args:
        source: where the data are and which importer reads them.
        schema: the labels are mapped onto it.
        bad: where given, bad records are counted there and skipped; a schema mismatch still raises.
        dropped: counts the labels left out because the schema lacks their attribute, and under names in parentheses
            whatever else is left out; without it they are logged.

    Yields:
        At most `source.max_records` conversations.

    Raises:
        UserError: with file and line.
    """
    labels = Labels(schema, Counter() if dropped is None else dropped, preference=_compared(source, schema))
    columns = ColumnNames(_columns(source, schema), source.name)
    rows: Iterator[SourceRow] = map(columns.rename, read_rows(source, bad))
    if source.format == "oasst":
        rows = oasst.trees(rows, bad, labels)
    conversations = itertools.chain.from_iterable(_convert(row, source, labels, bad) for row in rows)
    yield from itertools.islice(conversations, source.max_records)
    columns.check(str(source.path or source.hub))
    if dropped is None and labels.dropped:
        for what, chosen in (
            ("labels left out because the schema has no such attribute", False),
            ("left out because nothing reads it", True),
        ):
            found = [f"{n.strip('()')}: {count}" for n, count in labels.dropped.items() if n.startswith("(") is chosen]
            if found:
                _LOG.warning("%s: %s: %s", source.name, what, ", ".join(found))


def parse_columns(text: str) -> dict[str, str]:
    """Return the `columns` of a source as a command line says them: `prompt=player,response=reply,rating.humor=funny`.

    A pair with a comma in it stands in quotation marks, as in CSV.
    """
    names: dict[str, str] = {}
    for piece in next(csv.reader([text])):
        name, _, column = piece.partition("=")
        if not name.strip() or not column.strip():
            raise UserError(f"columns: {piece!r} is not of the form prompt=player")
        if names.setdefault(name.strip(), column.strip()) != column.strip():
            raise UserError(f"columns: {name.strip()!r} stands twice")
    return names


def _compared(source: SourceConfig, schema: AttributeSchema) -> str | None:
    """Return the attribute of which the source's comparisons are ratings.

    Raises:
        UserError: a format without comparisons, or an attribute that people cannot rate on a scale.
    """
    if source.preference is None:
        return None
    where = f"source {source.name!r}: preference"
    if source.format not in _COMPARING:
        raise UserError(f"{where}: format {source.format} compares no responses: valid: {', '.join(_COMPARING)}")
    attribute = schema[source.preference]
    if attribute.kind != "ordinal":
        raise UserError(f"{where}: {attribute.name!r} is categorical: a comparison rates an attribute with levels")
    if attribute.measure or attribute.classifier:
        teller = "measure" if attribute.measure else "classifier"
        raise UserError(f"{where}: a {teller} says what {attribute.name!r} is: name an attribute that people rate")
    return attribute.name


def _columns(source: SourceConfig, schema: AttributeSchema) -> dict[str, str]:
    """Return the source's `columns` under the importer's own names.

    Raises:
        UserError: a name that the importer does not read, or an attribute that the schema lacks.
    """
    prompt, response = _PROMPT_AND_RESPONSE.get(source.format, ("prompt", "response"))
    valid = {name: name for name in (*_READ[source.format], *ROW_FLAGS)}
    if {prompt, response} <= set(valid):
        valid |= {"prompt": prompt, "response": response}
    names = {}
    for name, column in source.columns.items():
        if name.startswith(_RATING):
            schema[name.removeprefix(_RATING)]
            names[name] = column
        elif name in valid:
            names[valid[name]] = column
        else:
            raise UserError(
                f"source {source.name!r}: columns: format {source.format} reads no {name!r}: "
                f"{did_you_mean(name, sorted([*valid, _RATING + 'ATTRIBUTE']))}"
            )
    return names


def _convert(row: SourceRow, source: SourceConfig, labels: Labels, bad: BadRecords | None) -> Iterator[Conversation]:
    value = row.value
    if source.format in ("messages", "nemo") and isinstance(value, dict) and is_signature(value.get("schema")):
        # outside the try: labels on another scale are no matter of one bad record
        labels.schema.require_same(value["schema"], "the schema in use", row.place)
    labels.written = row.written
    rated: JsonObject = {}
    if isinstance(value, dict):
        rated = {name: value[name] for name in source.columns if name.startswith(_RATING) and name in value}
        value = {key: cell for key, cell in value.items() if key not in rated} if rated else value
    try:
        drafts = list(IMPORTERS[source.format](value, labels))
        if isinstance(value, dict):
            untrained = 0 in {_row_flag(key, value.get(key), source) for key in ROW_FLAGS}
            if rated or untrained:
                own = labels.own({name.removeprefix(_RATING): cell for name, cell in rated.items()})
                drafts = [_with_row(draft, untrained, own) for draft in drafts]
            _count_columns(value, source, labels)
    except UserError as error:
        reject(f"{row.place}: {error}", bad)
        return
    for draft in drafts:
        try:
            group = draft.group or prompt_group(draft.messages)
            meta = {key: value for key, value in draft.meta.items() if (key, value) != ("origin", source.name)}
            conversation = Conversation(_id(draft, row, source), draft.messages, source.name, group, meta)
        except UserError as error:
            reject(f"{row.place}{draft.suffix and f' ({draft.suffix[1:]})'}: {error}", bad)
            continue
        yield conversation


def _with_row(draft: Draft, untrained: bool, own: Labelled) -> Draft:
    """Apply what stands beside the turns: a flag that keeps the row out of training, columns of ratings."""
    said = list(draft.messages)
    if untrained:
        said = [replace(message, weight=0) if message.role == "assistant" else message for message in said]
    if own.attributes:
        if not said or said[-1].role != "assistant":
            raise UserError("the row rates a response, but its last turn is none")
        said[-1] = with_ratings(said[-1], own)
    return draft._replace(messages=tuple(said))


def _row_flag(key: str, value: object, source: SourceConfig) -> int | None:
    """Return 0 where a column keeps a row out of training, 1 where it does not, None where it says something else.

    Raises:
        UserError: the user has named the column, and it says something else.
    """
    try:
        return None if absent(value) else trained_flag(key, value)
    except UserError:
        if key in source.columns:
            raise
        return None


def _count_columns(row: JsonObject, source: SourceConfig, labels: Labels) -> None:
    """Count the columns that no importer reads, unless the user has named the ones that matter."""
    if source.format in ("messages", "oasst") or source.columns:
        return
    for key, value in row.items():
        if absent(value) or key in _READ[source.format] or (source.format == "table" and key in labels.schema):
            continue
        if key in ROW_FLAGS and _row_flag(key, value, source) is not None:
            continue
        labels.dropped[f"(column {key})"] += 1


def _id(draft: Draft, row: SourceRow, source: SourceConfig) -> str:
    if draft.id is None:
        return f"{source.name}/{row.number}{draft.suffix}"
    # a record of ours keeps its id, so that importing it again changes nothing
    return draft.id if source.format == "messages" else f"{source.name}/{draft.id}{draft.suffix}"

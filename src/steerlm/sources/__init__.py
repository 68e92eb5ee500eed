"""Public data sets and formats, one file each, read into conversations (SteerLM, section 4.1).

for conversation in read_source(SourceConfig(name="hh", format="hh_rlhf", path=...), schema): ...
"""

from __future__ import annotations

import itertools
import logging
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.config import SourceConfig, SourceFormat
from steerlm.conversation import BadRecords, Conversation
from steerlm.errors import UserError
from steerlm.sources import alpaca, helpsteer, hh_rlhf, messages, nemo, oasst, self_identification, sharegpt
from steerlm.sources.draft import Draft, Labels, prompt_group
from steerlm.sources.nemo import export_nemo
from steerlm.sources.rows import Row, read_rows, reject

__all__ = ["IMPORTERS", "export_nemo", "read_source"]

Importer = Callable[[Any, Labels], Iterator[Draft]]

IMPORTERS: dict[SourceFormat, Importer] = {
    "messages": messages.convert,
    "oasst": oasst.convert,
    "helpsteer": helpsteer.convert,
    "hh_rlhf": hh_rlhf.convert,
    "self_identification": self_identification.convert,
    "nemo": nemo.convert,
    "sharegpt": sharegpt.convert,
    "alpaca": alpaca.convert,
}

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
        dropped: counts the labels left out because the schema lacks their attribute; without it they are logged.

    Yields:
        At most `source.max_records` conversations.

    Raises:
        UserError: with file and line.
    """
    labels = Labels(schema, Counter() if dropped is None else dropped)
    rows = read_rows(source, bad)
    if source.format == "oasst":
        rows = oasst.trees(rows, bad)
    conversations = itertools.chain.from_iterable(_convert(row, source, labels, bad) for row in rows)
    yield from itertools.islice(conversations, source.max_records)
    if dropped is None and labels.dropped:
        counts = ", ".join(f"{name}: {count}" for name, count in labels.dropped.items())
        _LOG.warning("%s: labels left out because the schema has no such attribute: %s", source.name, counts)


def _convert(row: Row, source: SourceConfig, labels: Labels, bad: BadRecords | None) -> Iterator[Conversation]:
    if source.format in ("messages", "nemo") and isinstance(row.value, dict) and row.value.get("schema") is not None:
        # outside the try: labels on another scale are no matter of one bad record
        labels.schema.require_same(str(row.value["schema"]), "the schema in use", row.place)
    try:
        drafts = list(IMPORTERS[source.format](row.value, labels))
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


def _id(draft: Draft, row: Row, source: SourceConfig) -> str:
    if draft.id is None:
        return f"{source.name}/{row.number}{draft.suffix}"
    # a record of ours keeps its id, so that importing it again changes nothing
    return draft.id if source.format == "messages" else f"{source.name}/{draft.id}{draft.suffix}"

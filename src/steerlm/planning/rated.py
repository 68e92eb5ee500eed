"""Is there a label of every attribute that people say? A run without one ends after `prepare`."""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Iterator, Sequence

from steerlm.config import Recipe, SourceConfig
from steerlm.conversation import Conversation, Message
from steerlm.planning.findings import Findings
from steerlm.results.findings import nobody_says, rated_by_people
from steerlm.runs import recipe_stages
from steerlm.sources import read_source
from steerlm.sources.rows import BadRecords


def check_rated(
    recipe: Recipe, samples: Sequence[Conversation], readable: Sequence[SourceConfig], found: Findings
) -> None:
    """Look for a label of every attribute that people say, in the first records and then in all others.

    Args:
        samples: the first records of every source that can be read.
        readable: those sources; where others are not read here, a label may stand in them.
    """
    missing = set(rated_by_people(recipe))
    taught = "train_attribute_model" in recipe_stages(recipe)
    if not missing:
        return
    for record in itertools.chain(samples, _everything(recipe, readable)):
        for turn in record.assistant_turns:
            missing -= _labelled(record.messages[turn], taught)
        if not missing:
            return
    text = nobody_says([name for name in recipe.schema_.names if name in missing], [one.name for one in readable])
    whole = len(readable) == len(recipe.prepare.sources)
    (found.problems if whole else found.notes).append(text if whole else f"{text}; the other sources were not read")


def _labelled(message: Message, taught: bool) -> set[str]:
    """Return what is labelled on a turn; an attribute model learns from people and judges alone."""
    own = {*message.human_labels, *message.judged}
    return own if taught else {*own, *(message.attributes or ())}


def _everything(recipe: Recipe, sources: Sequence[SourceConfig]) -> Iterator[Conversation]:
    for source in sources:
        bad = BadRecords() if recipe.prepare.skip_bad_records else None
        yield from read_source(source, recipe.schema_, bad, Counter())

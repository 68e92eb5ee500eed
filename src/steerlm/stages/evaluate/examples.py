"""Answers to look at: the same prompt at several levels of a dial, chosen by position and never by hand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.stages.evaluate.sweeping import Plan

_PER_DIAL = 2
_MOST_CHARACTERS = 1500

Row = dict[str, Any]


def examples(
    plan: Plan,
    schema: AttributeSchema,
    answers: Sequence[Row],
    scores: Mapping[str, Sequence[Row]],
    headline: Mapping[str, str],
    every_level: bool = False,
) -> list[dict[str, Any]]:
    """Pick sweeps of every dial in the plan.

    Args:
        plan: what was asked.
        schema: the attributes.
        answers: one row per ask, `samples`.
        scores: by scorer, one row per ask, `scores`.
        headline: attribute -> scorer whose measurement stands beside the answer.
        every_level: show every level; else the lowest, the middle and the highest.

    Returns:
        JSON-able rows: `dial`, `messages`, `replies` (`requested`, `obtained`, `attributes`, `text`).
    """
    sweeps = []
    dials = [schema[name] for name in dict.fromkeys(cell.dial for cell in plan.cells)]
    for d, dial in enumerate(dials):
        cells = [cell for cell in plan.cells if cell.dial == dial.name and answers[cell.ask]["samples"]]
        cells = [cell for cell in cells if cell.context == cells[0].context]
        all_series = list(dict.fromkeys(cell.series for cell in cells))
        for number in range(min(_PER_DIAL, len(all_series))):
            # spread over the prompts, others for every dial
            series = all_series[(d * _PER_DIAL + number) * len(all_series) // (_PER_DIAL * len(dials))]
            steps = [cell for cell in cells if cell.series == series]
            if not every_level:
                steps = [steps[i] for i in sorted({0, len(steps) // 2, len(steps) - 1})]
            replies = []
            for cell in steps:
                row = scores[headline[dial.name]][cell.ask]["scores"][0] if dial.name in headline else None
                obtained = None if row is None or row[dial.name] is None else _level(dial, row[dial.name])
                text = answers[cell.ask]["samples"][0]["text"][:_MOST_CHARACTERS]
                setting = dict(plan.asks[cell.ask].attributes)
                replies.append({"requested": cell.level, "obtained": obtained, "attributes": setting, "text": text})
            messages = plan.prompts[plan.asks[steps[0].ask].prompt].messages
            conversation = [{"role": m.role, "content": m.content[:_MOST_CHARACTERS]} for m in messages]
            sweeps.append({"dial": dial.name, "messages": conversation, "replies": replies})
    return sweeps


def _level(attribute: Attribute, number: float) -> float | str:
    return number if attribute.kind == "ordinal" else str(attribute.levels[int(number)])

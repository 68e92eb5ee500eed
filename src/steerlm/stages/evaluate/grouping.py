"""The same figures for groups of requests: do the dials follow in every source, language and turn?"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence

from steerlm.attributes import AttributeSchema
from steerlm.results.evaluation import GroupResult
from steerlm.scorers.text_measures.language import language_of
from steerlm.stages.evaluate.fidelity import category_dial_report, following
from steerlm.stages.evaluate.observing import AnswerRow, ScoreRow, lay_out_sweeps
from steerlm.stages.evaluate.sweeping import Prompt, SweepPlan

UNKNOWN = "unknown"
"""Group of what has none: a record names no source, a language cannot be told, a header has not the category."""


def group_of_asks(plan: SweepPlan, by: str) -> list[str]:
    """Return the group of every ask; see the section's `by`.

    Raises:
        UserError: what tells languages apart is not installed.
    """
    if by == "source":
        of_prompts = [prompt.source or UNKNOWN for prompt in plan.prompts]
    elif by == "prompt_language":
        of_prompts = [_language(prompt) for prompt in plan.prompts]
    elif by == "turn":
        of_prompts = [f"turn {sum(message.role == 'user' for message in prompt.messages)}" for prompt in plan.prompts]
    else:
        return [str(ask.attributes.get(by, UNKNOWN)) for ask in plan.asks]
    return [of_prompts[ask.prompt] for ask in plan.asks]


def _language(prompt: Prompt) -> str:
    return language_of("\n".join(m.content for m in prompt.messages if m.role == "user")) or UNKNOWN


def report_of_groups(
    groups: Sequence[str],
    plan: SweepPlan,
    schema: AttributeSchema,
    answers: Sequence[AnswerRow],
    scores: Mapping[str, Sequence[ScoreRow]],
    headline: Mapping[str, str],
) -> dict[str, GroupResult]:
    """Report how every dial follows in every group, the largest first.

    Args:
        groups: of every ask.
        plan: what was asked.
        schema: the attributes.
        answers: one row per ask.
        scores: by scorer, one row per ask.
        headline: attribute -> the scorer that is quoted.
    """
    found = {}
    for group in sorted(set(groups), key=lambda name: (-groups.count(name), name)):
        cells = tuple(cell for cell in plan.cells if groups[cell.ask] == group)
        asked = dataclasses.replace(plan, cells=cells)
        dials, categorical = {}, {}
        for name, scorer in headline.items():
            sweeps = lay_out_sweeps(asked, schema, answers, scores[scorer], [name])
            rows = sweeps.of(name, name)
            if rows.any() and schema[name].kind == "ordinal":
                dials[name] = following(sweeps, schema[name], rows)
            elif rows.any():
                categorical[name] = category_dial_report(sweeps, schema[name]).accuracy
        found[group] = GroupResult(len({plan.asks[cell.ask].prompt for cell in cells}), dials, categorical)
    return found

"""Ways to steer in the report: what each obtains, and by how much it differs from the header."""

from __future__ import annotations

from collections.abc import Mapping

from steerlm.reporting.formatting import DASH, estimate_text, markdown_table, markdown_text, number
from steerlm.results.dials import DialResult
from steerlm.results.ways import WaysResult
from steerlm.statistics.estimates import Estimate


def ways_table(result: WaysResult) -> list[list[str]]:
    """Return header and rows as text for a terminal: a row per dial and way."""
    rows = [
        [
            attribute,
            way.name,
            number(dial.spearman.value),
            number(dial.mae.value),
            number(dial.slope.value),
            DASH if dial.largest_leak is None else number(dial.largest_leak.estimate.value),
        ]
        for attribute in result.headline_scorer
        for way in result.ways
        if (dial := way.dials.get(attribute)) is not None
    ]
    return [["dial", "way", "Spearman", "error", "slope", "side effect"], *rows]


def ways_sections(result: WaysResult) -> str:
    """Return the tables in Markdown: per dial what each way obtains, the means, and what it costs."""
    parts = [ways_overview(result)]
    for attribute in result.headline_scorer:
        rows = [
            [way.name, *_cells(dial), estimate_text(_error(way.by_dial, attribute))]
            for way in result.ways
            if (dial := way.dials.get(attribute)) is not None
        ]
        who = result.scorer(attribute).text
        columns = ["way", "Spearman", "error in levels", "slope (1 = exact)", "largest side effect per level"]
        parts += [
            f"### {markdown_text(attribute)}",
            f"Measured by {markdown_text(who)}.",
            markdown_table(
                [*columns, f"error, this minus {_reference(result)}"], [[markdown_text(r[0]), *r[1:]] for r in rows]
            ),
        ]
    if result.vectors:
        parts += ["### The vectors", _vectors(result)]
    return "\n\n".join(parts)


def _cells(dial: DialResult) -> list[str]:
    leak = dial.largest_leak
    return [
        estimate_text(dial.spearman),
        estimate_text(dial.mae),
        estimate_text(dial.slope),
        DASH if leak is None else f"{estimate_text(leak.estimate)} on {markdown_text(leak.attribute)}",
    ]


def _error(by_dial: Mapping[str, object], attribute: str) -> Estimate | None:
    found = by_dial.get(attribute)
    return None if found is None else getattr(found, "mae", None)


def ways_overview(result: WaysResult) -> str:
    """Means over the dials, differences from the first of them in pairs, and what an answer costs."""
    rows = []
    for way in result.ways:
        dials = list(way.dials.values())
        against = way.against_header
        rows.append(
            [
                markdown_text(way.name),
                _mean([dial.mae.value for dial in dials]),
                _mean([dial.spearman.value for dial in dials]),
                DASH if against is None else estimate_text(against.mae),
                DASH if against is None else estimate_text(against.spearman),
                number(way.prompt_tokens, 0),
                f"{way.draws} × {number(way.answer_tokens, 0)}" if way.draws > 1 else number(way.answer_tokens, 0),
            ]
        )
    first = _reference(result)
    columns = ["way", "error in levels", "Spearman", f"error, minus {first}", f"Spearman, minus {first}"]
    table = markdown_table([*columns, "prompt tokens", "answer tokens drawn"], rows)
    scorers = list(result.headline_scorer.values())
    compared = [name for name, scorer in result.headline_scorer.items() if scorer == scorers[0]]
    names = ", ".join(map(markdown_text, compared))
    return table if len(compared) == len(scorers) else f"{table}\nDifferences: in pairs, mean over {names}."


def _reference(result: WaysResult) -> str:
    """Return the way that the others are compared with: the header, or the header turned up."""
    names = [way.name for way in result.ways if way.draws == 1]
    return next((name for kind in ("header", "guided") for name in names if name.startswith(kind)), "header")


def _mean(values: list[float]) -> str:
    return number(sum(values) / len(values)) if values else DASH


def _vectors(result: WaysResult) -> str:
    rows = [
        [
            markdown_text(name),
            f"{choice.layer + 1} of {choice.of}",
            number(choice.strength, 1),
            str(choice.examples),
            number(choice.error),
        ]
        for name, choice in result.vectors.items()
    ]
    return markdown_table(["dial", "layer", "strength", "answers on either side", "error when chosen"], rows)

"""What a reader must know before believing an evaluation, as sentences for the top of the report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerlm.stages.evaluate.panel import Panelist
from steerlm.statistics.estimates import MIN_CLUSTERS


def cautions(
    dials: Sequence[str],
    panel: Sequence[Panelist],
    headline: Mapping[str, str],
    clusters: int,
    statistics: Mapping[str, Mapping[str, Any]],
    models: Mapping[str, Any],
) -> list[str]:
    """Collect the warnings of an evaluation.

    Args:
        dials: the attributes that were swept.
        panel: who measured.
        headline: attribute -> the scorer that the headline quotes.
        clusters: independent prompts.
        statistics: per model the label statistics of its checkpoint.
        models: per model its part of the results.
    """
    found = []
    if clusters < MIN_CLUSTERS:
        found.append(f"{clusters} independent prompts are too few for intervals; at least {MIN_CLUSTERS} are needed.")
    independent = {scorer.id: scorer.independent for scorer in panel}
    unmeasured = [name for name in dials if name not in headline]
    if unmeasured:
        found.append(
            f"Nothing measures {_and(unmeasured)}: name a measure, an attribute model, a classifier or a judge."
        )
    own = [name for name in dials if name in headline and not independent[headline[name]]]
    if own:
        found.append(
            f"{_and(own).capitalize()}: measured only by the attribute model that labelled the training data, which is "
            "not independent: it cannot see its own mistakes."
        )
    taken = [scorer.id for scorer in panel if scorer.id.startswith("attribute-model")]
    if taken and not any(scorer.id == "annotator" for scorer in panel):
        found.append(
            "Which attribute model labelled the training data is not known here (--annotator names it): that "
            f"{_and(taken)} had no part in it is taken on trust."
        )
    for model, known in statistics.items():
        for name in dials:
            histogram = known.get("attributes", {}).get(name, {}).get("histogram", {})
            levels = [level for level, count in histogram.items() if count]
            if len(levels) == 1:
                found.append(
                    f"All training labels of {model} have {name} {levels[0]}: its dial cannot have learnt a thing."
                )
    for model, report in models.items():
        unanswered = report["answers"].get("all", {}).get("unanswered", 0)
        if unanswered:
            found.append(f"{model}: {unanswered} prompts do not fit its context and have no answer.")
        for panelist in panel:
            left = report["scorers"][panelist.id]["unscored"]
            missing = left["none"] + left["partly"]
            if missing:
                found.append(
                    f"{model}: {panelist.scorer.label} gave {missing} of {left['answers']} answers no (whole) score."
                )
        for name in dials:
            dial = report["scorers"].get(headline.get(name, ""), {}).get("dials", {}).get(name)
            if dial is not None and dial["constant"] is not None:
                found.append(
                    f"{model}: {name} never varies, whatever is asked for (always {dial['constant']:g}, by "
                    f"{headline[name]}); correlations are undefined."
                )
    return found


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""What an evaluation says beside its sweeps: what the answers are like, examples of them, and what to beware of.

Answer statistics are those of the SteerLM paper (section 4: characters and unique words per answer), and defects.
Examples are chosen by position and never by hand.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.info import CheckpointInfo
from steerlm.results.evaluation import AnswerStatistics, ModelResult, SaidTurn, SweepExample, SweepReply
from steerlm.scorers import measures
from steerlm.stages.evaluate.observing import AnswerRow, ScoreRow
from steerlm.stages.evaluate.panel import Panelist
from steerlm.stages.evaluate.sweeping import Strengths, SweepPlan, strengths_of
from steerlm.statistics.estimates import MIN_CLUSTERS, cluster_bootstrap, estimate_share, mean

_EXAMPLES_PER_DIAL = 2
_MOST_CHARACTERS = 1500


def answer_statistics(
    plan: SweepPlan, answers: Sequence[AnswerRow], schema: AttributeSchema
) -> dict[str, AnswerStatistics]:
    """Describe a model's answers: at the `defaults`, where the plan has them, and over `all` settings."""
    defaults = tuple(schema.defaults.items())
    groups = {
        "defaults": [i for i, ask in enumerate(plan.asks) if tuple(ask.attributes.items()) == defaults],
        "all": list(range(len(plan.asks))),
    }
    return {name: _describe(plan, answers, asks, schema) for name, asks in groups.items() if asks}


def _describe(
    plan: SweepPlan, answers: Sequence[AnswerRow], asks: Sequence[int], schema: AttributeSchema
) -> AnswerStatistics:
    columns: dict[str, list[float]] = {}
    shares: dict[str, list[bool]] = {}
    clusters: list[int] = []
    texts: list[str] = []
    said: set[tuple[int, str]] = set()
    for i in asks:
        prompt = plan.asks[i].prompt
        for sample in answers[i]["samples"]:
            text = sample["text"]
            found = {
                "refusal": measures.is_refusal(text),
                "label_leak": measures.has_label_leak(text, schema),
                "degenerate": measures.is_degenerate(text),
                "unfinished": not sample["finished"],
                "duplicate": (prompt, text) in said,
            }
            for name, hit in found.items():
                shares.setdefault(name, []).append(hit)
            statistics = measures.text_statistics(text)._asdict()
            for name, value in {"tokens": float(sample["num_tokens"]), **statistics}.items():
                columns.setdefault(name, []).append(value)
            said.add((prompt, text))
            clusters.append(plan.prompts[prompt].cluster)
            texts.append(text)
    within = ("distinct_1", "distinct_2")  # per answer they say little more than its length
    means = {name: cluster_bootstrap(mean, [x], clusters) for name, x in columns.items() if name not in within}
    return AnswerStatistics(
        answers=len(texts),
        unanswered=sum(not answers[i]["samples"] for i in asks),
        **means,
        **{name: estimate_share(hits, clusters) for name, hits in shares.items()},
        distinct_1=measures.distinct_n(texts, 1),
        distinct_2=measures.distinct_n(texts, 2),
    )


def examples(
    plan: SweepPlan,
    schema: AttributeSchema,
    answers: Sequence[AnswerRow],
    scores: Mapping[str, Sequence[ScoreRow]],
    headline: Mapping[str, str],
) -> list[SweepExample]:
    """Pick sweeps of every dial in the plan: the lowest, the middle and the highest level; of a single dial all.

    Args:
        answers: one row per ask.
        scores: by scorer, one row per ask.
        headline: attribute -> scorer whose measurement stands beside the answer.
    """
    sweeps = []
    dials = [schema[name] for name in dict.fromkeys(cell.dial for cell in plan.cells)]
    for d, dial in enumerate(dials):
        cells = [cell for cell in plan.cells if cell.dial == dial.name and answers[cell.ask]["samples"]]
        cells = [cell for cell in cells if cell.context == cells[0].context]
        all_series = list(dict.fromkeys(cell.series for cell in cells))
        for number in range(min(_EXAMPLES_PER_DIAL, len(all_series))):
            # spread over the prompts, others for every dial
            place = d * _EXAMPLES_PER_DIAL + number
            series = all_series[place * len(all_series) // (_EXAMPLES_PER_DIAL * len(dials))]
            steps = [cell for cell in cells if cell.series == series]
            if len(dials) > 1:
                steps = [steps[i] for i in sorted({0, len(steps) // 2, len(steps) - 1})]
            replies = []
            for cell in steps:
                row = scores[headline[dial.name]][cell.ask]["scores"][0] if dial.name in headline else None
                score = None if row is None else row[dial.name]
                obtained = None if score is None else _level(dial, score)
                text = answers[cell.ask]["samples"][0]["text"][:_MOST_CHARACTERS]
                replies.append(SweepReply(cell.level, obtained, dict(plan.asks[cell.ask].attributes), text))
            messages = plan.prompts[plan.asks[steps[0].ask].prompt].messages
            conversation = [SaidTurn(m.role, m.content[:_MOST_CHARACTERS]) for m in messages]
            sweeps.append(SweepExample(dial.name, conversation, replies))
    return sweeps


def _level(attribute: Attribute, number: float) -> float | str:
    return number if attribute.kind == "ordinal" else str(attribute.levels[int(number)])


def cautions(
    dials: Sequence[str],
    scorers: Sequence[Panelist],
    headline: Mapping[str, str],
    clusters: int,
    infos: Mapping[str, CheckpointInfo],
    models: Mapping[str, ModelResult],
    guidance: Mapping[str, Strengths],
) -> list[str]:
    """Collect the warnings of an evaluation, as sentences for the top of the report.

    Args:
        dials: the attributes that were swept.
        headline: attribute -> the scorer that the headline quotes.
        clusters: independent prompts.
        infos: what the checkpoints say of themselves.
        guidance: by model how strongly the dial that is turned counted.
    """
    found = []
    if guided := _guided(dials, guidance):
        found.append(
            f"The dial that is turned counts more or less than it was trained to ({guided}; `evaluate.guidance`): what "
            "is measured here holds for requests with the same strength."
        )
    if clusters < MIN_CLUSTERS:
        found.append(f"{clusters} independent prompts are too few for intervals; at least {MIN_CLUSTERS} are needed.")
    independent = {scorer.id: scorer.independent for scorer in scorers}
    unmeasured = [name for name in dials if name not in headline]
    if unmeasured:
        found.append(
            f"Nothing measures {_and(unmeasured)}: name a measure, an attribute model, a classifier or a judge."
        )
    own = [name for name in dials if name in headline and not independent[headline[name]]]
    if own:
        found.append(
            f"{_and(own).capitalize()}: measured only by what labelled the training data, which is not independent: it "
            "cannot see its own mistakes."
        )
    taken = [scorer.id for scorer in scorers if scorer.id.startswith("attribute-model")]
    known = any(scorer.id == "annotator" for scorer in scorers) or all(
        info.provenance.get("labelled_by") for info in infos.values()
    )
    if taken and not known:
        found.append(
            "Which attribute model labelled the training data is not known here (--annotator names it): that "
            f"{_and(taken)} had no part in it is taken on trust."
        )
    for model, info in infos.items():
        for name in dials:
            histogram = info.label_statistics.get("attributes", {}).get(name, {}).get("histogram", {})
            levels = [level for level, count in histogram.items() if count]
            if len(levels) == 1:
                found.append(
                    f"All training labels of {model} have {name} {levels[0]}: its dial cannot have learnt a thing."
                )
    for model, result in models.items():
        found += _of_model(model, result, scorers)
    return found


def _guided(dials: Sequence[str], guidance: Mapping[str, Strengths]) -> str:
    """Return which dials did not count 1, by model where models differ; nothing where all did."""
    said = {}
    for model, strengths in guidance.items():
        turned = {name: strength for dial in dials for name, strength in strengths_of(dial, strengths).items()}
        said[model] = ", ".join(f"{name} {strength:g}" for name, strength in turned.items())
    alike = len(set(said.values())) == 1
    return next(iter(said.values())) if alike else "; ".join(f"{m}: {text or 'as trained'}" for m, text in said.items())


def _of_model(model: str, result: ModelResult, scorers: Sequence[Panelist]) -> list[str]:
    found = []
    if "all" in result.answers and (unanswered := result.answers["all"].unanswered):
        found.append(f"{model}: {unanswered} prompts do not fit its context and have no answer.")
    for scorer in scorers:
        left = result.scorers[scorer.id].unscored
        assert left is not None
        if missing := left.none + left.partly:
            found.append(f"{model}: {scorer.scorer.label} gave {missing} of {left.answers} answers no (whole) score.")
    return found


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"

"""Answer statistics as in the SteerLM paper (section 4: characters and unique words per answer), and defects."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from steerlm.attributes import AttributeSchema
from steerlm.scorers import measures
from steerlm.stages.evaluate.sweeping import Plan
from steerlm.statistics.estimates import cluster_bootstrap, estimate_share, mean


def answer_statistics(plan: Plan, answers: Sequence[Mapping[str, Any]], schema: AttributeSchema) -> dict[str, Any]:
    """Describe a model's answers: at the default setting, where the plan has it, and over all settings.

    Returns:
        JSON-able, per group `defaults` and `all`: `answers` (number), `unanswered` (prompts longer than the context),
        estimates `tokens` and the text statistics per answer; estimated shares `refusal`, `label_leak`, `degenerate`,
        `unfinished` (cut off at the longest length), `duplicate` (said before to the same prompt in the group);
        `distinct_1` and `distinct_2` over the group's answers together.
    """
    defaults = {tuple(schema.defaults.items())}
    everything = range(len(plan.asks))
    groups = {
        "defaults": [i for i in everything if tuple(plan.asks[i].attributes.items()) in defaults],
        "all": list(everything),
    }
    return {name: _describe(plan, answers, asks, schema) for name, asks in groups.items() if asks}


def _describe(
    plan: Plan, answers: Sequence[Mapping[str, Any]], asks: Sequence[int], schema: AttributeSchema
) -> dict[str, Any]:
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
    return {
        "answers": len(texts),
        "unanswered": sum(not answers[i]["samples"] for i in asks),
        **{
            name: cluster_bootstrap(mean, [column], clusters).to_dict()
            for name, column in columns.items()
            if name not in within
        },
        **{name: estimate_share(hits, clusters).to_dict() for name, hits in shares.items()},
        "distinct_1": measures.distinct_n(texts, 1),
        "distinct_2": measures.distinct_n(texts, 2),
    }

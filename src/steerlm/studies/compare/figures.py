"""The figures of a comparison: win rates, ratings, length control, and what the answers are like."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence

from steerlm.attributes import STEERLM, AttributeSchema
from steerlm.results.comparison import AnswerDescription, PairRecord, Ranking, SideBySide, SystemReply
from steerlm.results.evaluation import SaidTurn
from steerlm.scorers import measures
from steerlm.statistics.estimates import Estimate, cluster_bootstrap, estimate_share, mean
from steerlm.statistics.length_control import length_controlled_win_rate
from steerlm.statistics.rankings import (
    Match,
    bradley_terry_intervals,
    elo,
    flip_rate,
    overall_win_rates,
    position_bias,
    win_rates,
)
from steerlm.studies.compare.deciding import AnswerScores, Objective
from steerlm.studies.compare.systems import ComparedPrompt, SystemAnswer

_EXAMPLE_CHARACTERS = 1500


def rank(
    matches: Sequence[Match], lengths: Mapping[tuple[str, str], float], games_per_run: int | None, seed: int
) -> Ranking:
    """Return win rates, ratings and the head-to-head matrix, all with intervals clustered by prompt.

    Args:
        lengths: characters of the answer per (system, prompt).
        games_per_run: games per ordering of Elo; None = all.
    """
    both_orders = flip_rate(matches)
    return Ranking(
        matches=len(matches),
        ties=sum(match.outcome == 0.5 for match in matches),
        win_rate=overall_win_rates(matches),
        bradley_terry=bradley_terry_intervals(matches, seed=seed),
        elo=elo(matches, games_per_run=games_per_run, seed=seed),
        elo_games_per_run=min(games_per_run or len(matches), len(matches)),
        head_to_head={
            a: {
                b: PairRecord(
                    wins=record.wins,
                    ties=record.ties,
                    losses=record.losses,
                    win_rate=record.win_rate,
                    length_controlled=length_controlled_win_rate(matches, a, b, lengths),
                )
                for b, record in row.items()
            }
            for a, row in win_rates(matches).items()
        },
        position_bias=position_bias(matches) if both_orders.n else None,
        flip_rate=both_orders if both_orders.n else None,
    )


def answer_lengths(
    prompts: Sequence[ComparedPrompt], answers: Mapping[str, Sequence[SystemAnswer]]
) -> dict[tuple[str, str], float]:
    """Return the characters of every answer per (system, prompt)."""
    return {
        (name, prompt.id): float(len((answer.text or "").strip()))
        for name, found in answers.items()
        for prompt, answer in zip(prompts, found, strict=True)
    }


def describe_answers(
    prompts: Sequence[ComparedPrompt], answers: Sequence[SystemAnswer], schema: AttributeSchema | None
) -> AnswerDescription:
    """Describe one system's answers, as the paper does (section 4: characters and unique words), and their defects.

    Args:
        schema: its attributes, to find their labels in answers; None: those of NVIDIA's models.
    """
    ids = [prompt.id for prompt in prompts]
    texts = [answer.text or "" for answer in answers]
    statistics = [measures.text_statistics(text) for text in texts]

    def average(name: str) -> Estimate:
        return cluster_bootstrap(mean, [[getattr(row, name) for row in statistics]], ids)

    def share(hits: Sequence[bool]) -> Estimate:
        return estimate_share(hits, ids)

    known = all(answer.finished is not None for answer in answers)
    return AnswerDescription(
        characters=average("characters"),
        words=average("words"),
        unique_words=average("unique_words"),
        words_per_sentence=average("words_per_sentence"),
        distinct_1=measures.distinct_n(texts, 1),
        distinct_2=measures.distinct_n(texts, 2),
        empty=share([not text.strip() for text in texts]),
        refusal=share([measures.is_refusal(text) for text in texts]),
        label_leak=share([measures.has_label_leak(text, schema or STEERLM) for text in texts]),
        degenerate=share([measures.is_degenerate(text) for text in texts]),
        unfinished=share([not answer.finished for answer in answers]) if known else None,
    )


def describe_scores(
    prompts: Sequence[ComparedPrompt], scores: Mapping[str, Sequence[AnswerScores]], objective: Objective
) -> dict[str, dict[str, Estimate]]:
    """Return per system the mean of every weighted attribute and of the worth, over the answers that have scores."""
    out = {}
    for name, rows in scores.items():
        scored = [(prompt.id, row) for prompt, row in zip(prompts, rows, strict=True) if row is not None]
        ids = [prompt_id for prompt_id, _ in scored]
        columns = {key: [row[key] for _, row in scored] for key in objective.weights}
        columns["worth"] = [objective.worth(row) for _, row in scored]
        out[name] = {key: cluster_bootstrap(mean, [column], ids) for key, column in columns.items()}
    return out


def examples(
    prompts: Sequence[ComparedPrompt],
    answers: Mapping[str, Sequence[SystemAnswer]],
    matches: Sequence[Match],
    count: int = 4,
) -> list[SideBySide]:
    """Return prompts, evenly spread and not chosen by their answers, with what every system said and who won."""
    chosen = sorted({math.floor((i + 0.5) * len(prompts) / count) for i in range(count)})
    by_prompt = {prompt: list(group) for prompt, group in itertools.groupby(
        sorted(matches, key=lambda match: match.prompt), key=lambda match: match.prompt
    )}  # fmt: skip
    out = []
    for i in chosen:
        points = dict.fromkeys(answers, 0.0)
        for match in by_prompt.get(prompts[i].id, []):
            points[match.first] += match.outcome
            points[match.second] += 1 - match.outcome
        messages = [SaidTurn(message.role, _shown(message.content)) for message in prompts[i].messages]
        said = [SystemReply(name, _shown(found[i].text or ""), points[name]) for name, found in answers.items()]
        out.append(SideBySide(prompts[i].id, messages, said))
    return out


def _shown(text: str) -> str:
    return text if len(text) <= _EXAMPLE_CHARACTERS else text[:_EXAMPLE_CHARACTERS].rstrip() + " …"

"""Measure what goes beyond the first paper: models of one run, all asked the same; a row per model and seed.

    python docs/results_beyond.py RUN ROW=MODEL [ROW=MODEL …] [--seed N] [--cost ROW=STAGE_FOLDER …]
    python docs/results_beyond.py RUN ROW=MODEL … --scorer ATTRIBUTE_MODEL                     (a run on real data)
    python docs/results_beyond.py RUN --report ROW=STAGE_FOLDER …       (what the stage found by itself)
    make docs

RUN is a playground run: its fine-tuning is the row `sft`, which the others are compared with request by request. Every
held-out prompt is asked for settings of the training labels, and once for the best: exact measures say what came out.
With a scorer RUN is one on real data: what its schema measures is measured, what it does not the scorer says, each in a
table of its own. A row is added to `docs/results/beyond.json`, or replaced there, under its name and the seed; `ROWS`
says what a name means, and a name that is not in it stands in the table as it is. STAGE_FOLDER is the folder of the
stage that made the model, whose `done.json` and report say what it took.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from steerlm.reporting.formatting import DASH, estimate_text, markdown_table, number
from steerlm.results.codec import from_json
from steerlm.statistics.estimates import Estimate

FILE = Path(__file__).resolve().parent / "results" / "beyond.json"
ROWS = {
    "sft": "attribute-conditioned SFT",
    "longer": "+ as many tokens of the same records as bootstrapping trains on",
    "bootstrap-paper": "+ bootstrap, `mode: paper`",
    "bootstrap": "+ bootstrap, the default",
    "bootstrap-2": "+ bootstrap, the default, two rounds of half the answers",
    "bootstrap-turned-up": "+ bootstrap, the default, samples turned up (2)",
    "bootstrap-turned-up-3": "+ bootstrap, samples turned up (3), 1 round",
    "bootstrap-turned-up-3-2": "+ bootstrap, samples turned up (3), 2 rounds",
    "refine": "+ refine, 1 round",
    "refine-2": "+ refine, 2 rounds",
    "refine-24": "+ refine, concentration 24, learning rate 3e-4, 2 requests per step",
    "refine-300": "+ refine, concentration 300, learning rate 3e-4, 8 requests per step",
    "refine-slow": "+ refine, concentration 300, learning rate 3e-5, 8 requests per step",
    "contrast": "+ contrast",
    "reinforce": "+ rewards (reinforce)",
    "grow": "+ grow, up to 3 rounds, nobody asked",
    "grow-rated": "+ grow, up to 3 rounds, 40 ratings in each",
    "demonstrations": "no training: the training answer nearest to the request as an earlier turn",
}
MEASURED_BY = {
    "rows": "exact measures",
    "rested": "exact measures",
    "real": "the dials' own measures",
    "real_scored": "a second opinion, an attribute model of other data, another base and another seed",
}
"""What says what came out, by table."""
_SETTINGS, _MAX_NEW_TOKENS, _TEMPERATURE, _TOP_K = 2, 160, 0.7, 50
_SHOWN = 1
"""Demonstrations of the row of that name: the playground's context has room for no more."""


def _stored() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8")) if FILE.is_file() else {"rows": {}}
    return found


def measured(run: Path, model: Path, num_prompts: int | None, scorer: Path | None, shown: int = 0) -> Mapping[str, Any]:
    """Return what a model's answers measured: requested and obtained levels (N, K), prompts (N,), and at the best.

    Args:
        shown: training answers near the setting that the model sees as earlier turns.
    """
    import numpy as np

    from steerlm.checkpoint.models import load_info
    from steerlm.conversation import Message
    from steerlm.generation.demonstrations import placed, read_demonstrations
    from steerlm.generation.engine import Request, Sampling, load_engine
    from steerlm.stages.evaluate.sweeping import read_prompts, seen_combinations

    info = load_info(run / "train_sft" / "model")
    schema = info.schema
    known = [c for c, _ in seen_combinations(info.label_statistics, schema) if len(c) == len(schema)]
    held_out = run / ("annotate/validation.jsonl" if scorer else "playground/prompts.jsonl")
    prompts = read_prompts(held_out, schema, num_prompts, 0)
    draws = np.random.default_rng(5)
    best = {**schema.defaults, **{a.name: a.best_value for a in schema if a.best is not None}}
    asked = [
        (number, prompt, setting)
        for number, prompt in enumerate(prompts)
        for setting in [*(known[int(draws.integers(len(known)))] for _ in range(_SETTINGS)), best]
    ]
    examples = read_demonstrations(run / "annotate" / "train.jsonl", schema) if shown else None
    requests = [
        Request(
            placed(prompt.messages, examples.choose(prompt.messages, setting, shown)) if examples else prompt.messages,
            setting,
            seed=prompt.seed * (_SETTINGS + 1) + i % (_SETTINGS + 1),
        )
        for i, (_, prompt, setting) in enumerate(asked)
    ]
    answers = load_engine(model, batch_size=32 if scorer else 128).generate(
        requests, Sampling(96 if scorer else _MAX_NEW_TOKENS, _TEMPERATURE, _TOP_K)
    )
    texts = [answer.text for [answer] in answers]
    turns = [(*prompt.messages, Message("assistant", text)) for (_, prompt, _), text in zip(asked, texts, strict=True)]
    said = _said(schema, turns, scorer)
    return {
        "names": schema.names,
        "measured": [bool(attribute.measure) for attribute in schema],
        "best_at": [attribute.best for attribute in schema],
        "maximum": [attribute.maximum for attribute in schema],
        "wanted": np.array([[float(setting[name]) for name in schema.names] for _, _, setting in asked]),
        "obtained": np.array([[row.get(name, np.nan) for name in schema.names] for row in said]),
        "prompt": np.array([number for number, _, _ in asked]),
        "best": np.arange(len(asked)) % (_SETTINGS + 1) == _SETTINGS,
        "texts": texts,
    }


def _said(schema: Any, turns: Sequence[Any], scorer: Path | None) -> list[dict[str, float]]:
    """Return the levels of answers; an attribute is missing where its measure does not define it."""
    if scorer is None:
        from steerlm.playground.measuring import measure

        return [{name: float(value) for name, value in measure(turn).items()} for turn in turns]
    from steerlm.scorers.attribute_models import load_attribute_model
    from steerlm.scorers.dials import open_dials

    said: list[dict[str, float]] = [{} for _ in turns]
    for one in (*open_dials(schema), load_attribute_model(scorer)):
        for row, scores in zip(said, one.score(turns), strict=True):
            row |= {name: score.mean for name, score in (scores or {}).items() if name in schema.names}
    return said


def some_dials(found: Mapping[str, Any], chosen: Sequence[bool]) -> Mapping[str, Any]:
    """Return what was measured of some of the dials."""
    columns = [k for k, taken in enumerate(chosen) if taken]
    parts = {key: [found[key][k] for k in columns] for key in ("names", "best_at", "maximum")}
    return {**found, **parts, **{key: found[key][:, columns] for key in ("wanted", "obtained")}}


def figures(found: Mapping[str, Any], before: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the figures of a row, with 95 % intervals from resampled prompts."""
    import numpy as np

    from steerlm.scorers.measures import distinct_n
    from steerlm.statistics.estimates import cluster_bootstrap, mean

    asked, best = ~found["best"], found["best"]
    prompts = found["prompt"][asked].tolist()
    error_N_K = np.abs(found["obtained"] - found["wanted"])[asked]
    before_N_K = np.abs(before["obtained"] - before["wanted"])[asked]
    wanted_N_K, obtained_N_K = found["wanted"][asked], found["obtained"][asked]
    goodness_N_K = goodness(found["obtained"][best], found["best_at"], found["maximum"])

    def estimate(values_N: Any, clusters: list[int]) -> dict[str, object]:
        return cluster_bootstrap(mean, [values_N], clusters).to_dict()

    def by_prompt(values_N_K: Any) -> list[float]:
        values_N, mine = _defined(values_N_K, prompts)
        return [round(float(values_N[np.array(mine) == p].mean()), 4) for p in sorted(set(mine))]

    change_N_K = error_N_K - before_N_K
    return {
        "error": estimate(*_defined(error_N_K, prompts)),
        "difference": estimate(*_defined(change_N_K, prompts)),
        "error_by_prompt": by_prompt(error_N_K),
        "difference_by_prompt": by_prompt(change_N_K),
        "error_by_dial": {n: round(float(np.nanmean(error_N_K[:, k])), 4) for k, n in enumerate(found["names"])},
        "spearman": _resampled(_spearman, wanted_N_K, obtained_N_K, prompts),
        "side_effects": _resampled(_side_effects, wanted_N_K, obtained_N_K, prompts),
        "quality": None if goodness_N_K is None else estimate(*_defined(goodness_N_K, found["prompt"][best].tolist())),
        "distinct_2": round(distinct_n([t for t, b in zip(found["texts"], best, strict=True) if b], 2), 4),
        "unique": round(len(set(found["texts"])) / len(found["texts"]), 4),
    }


def goodness(obtained_N_K: Any, best_at: Sequence[str | None], maxima: Sequence[float]) -> Any:
    """Return how good answers are, 0 to 4, by each attribute that has a best end (N, Q); None where none has."""
    import numpy as np

    shares = [
        (scale - obtained_N if end == "min" else obtained_N) / scale
        for obtained_N, end, scale in zip(obtained_N_K.T, best_at, maxima, strict=True)
        if end is not None
    ]
    return 4 * np.stack(shares, axis=1) if shares else None


def add_proposed(run: Path, seed: int) -> None:
    """Keep how good a playground run's fine-tuned model answers at its defaults, at what `auto` proposes for each
    held-out prompt, and at the best setting."""
    import numpy as np

    from steerlm.checkpoint.models import load_info
    from steerlm.conversation import Message
    from steerlm.generation.demonstrations import read_demonstrations
    from steerlm.generation.engine import Request, Sampling, load_engine
    from steerlm.server.proposing import fit_proposer
    from steerlm.stages.evaluate.sweeping import read_prompts
    from steerlm.statistics.estimates import cluster_bootstrap, mean

    model = run / "train_sft" / "model"
    schema = load_info(model).schema
    proposer = fit_proposer(read_demonstrations(run / "annotate" / "train.jsonl", schema))
    prompts = read_prompts(run / "playground" / "prompts.jsonl", schema, None, 0)
    best = {**schema.defaults, **{a.name: a.best_value for a in schema if a.best is not None}}
    ways = {
        "the defaults": [schema.defaults] * len(prompts),
        "proposed": [proposer.propose(prompt.messages) for prompt in prompts],
        "the best": [best] * len(prompts),
    }
    requests = [
        Request(prompt.messages, setting, seed=prompt.seed)
        for settings in ways.values()
        for prompt, setting in zip(prompts, settings, strict=True)
    ]
    answers = load_engine(model, batch_size=128).generate(requests, Sampling(_MAX_NEW_TOKENS, _TEMPERATURE, _TOP_K))
    turns = [(*r.messages, Message("assistant", answer.text)) for r, [answer] in zip(requests, answers, strict=True)]
    levels = np.array([[row[name] for name in schema.names] for row in _said(schema, turns, None)])
    good_N = goodness(levels, [a.best for a in schema], [a.maximum for a in schema]).mean(axis=1)
    parts = np.split(good_N, len(ways))
    clusters = list(range(len(prompts)))
    row: dict[str, Any] = {
        name: cluster_bootstrap(mean, [part], clusters).to_dict() for name, part in zip(ways, parts, strict=True)
    }
    row["gain"] = cluster_bootstrap(mean, [parts[1] - parts[0]], clusters).to_dict()
    row["learned"] = {name: round(dial.error_ratio, 3) for name, dial in proposer.learned.items()}
    stored = _stored()
    stored.setdefault("proposed", {})[str(seed)] = row
    FILE.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


def proposed() -> str:
    """What answers are worth at settings that `auto` proposes."""
    stored = _stored().get("proposed", {})
    if not stored:
        return "Not measured yet.\n"
    columns = ("the defaults", "proposed", "the best", "gain")
    lines = [
        [seed, *(estimate_text(from_json(Estimate, row[key]), 2) for key in columns), ", ".join(row["learned"]) or DASH]
        for seed, row in sorted(stored.items(), key=lambda pair: int(pair[0]))
    ]
    header = [
        "seed", "quality at the defaults", "at what is proposed", "at the best", "proposed minus defaults",
        "dials that prompts foretell",
    ]  # fmt: skip
    n = next(iter(stored.values()))["gain"]["n"]
    return markdown_table(header, lines) + (
        f"\nThe fine-tuned model of each seed on {n} held-out prompts; quality from 0 to 4, by the exact measures of "
        "the attributes that have a best end; 95 % intervals from resampled prompts.\n"
    )


def _defined(values_N_K: Any, prompts: list[int]) -> tuple[Any, list[int]]:
    """Return the mean over the dials of every answer that any of them is defined on, and its prompt."""
    import numpy as np

    said_N = ~np.isnan(values_N_K).all(axis=1)
    return np.nanmean(values_N_K[said_N], axis=1), np.array(prompts)[said_N].tolist()


def _spearman(wanted_N_K: Any, obtained_N_K: Any) -> float:
    """Return the mean over the dials of the rank correlation between requested and obtained."""
    from scipy import stats

    pairs = zip(wanted_N_K.T, obtained_N_K.T, strict=True)
    found = [stats.spearmanr(wanted_N, obtained_N, nan_policy="omit").statistic for wanted_N, obtained_N in pairs]
    return float(sum(found) / len(found))


def _side_effects(wanted_N_K: Any, obtained_N_K: Any) -> float:
    """Return how many levels a dial moves the others by per level, in the mean over all pairs, by least squares."""
    import numpy as np

    design = np.column_stack([wanted_N_K, np.ones(len(wanted_N_K))])
    slopes = np.empty((wanted_N_K.shape[1],) * 2)
    for k, obtained_N in enumerate(obtained_N_K.T):
        said_N = ~np.isnan(obtained_N)
        slopes[:, k] = np.linalg.lstsq(design[said_N], obtained_N[said_N], rcond=None)[0][:-1]
    return float(np.abs(slopes[~np.eye(len(slopes), dtype=bool)]).mean())


def _resampled(statistic: Any, wanted_N_K: Any, obtained_N_K: Any, prompts: list[int]) -> dict[str, object]:
    import numpy as np

    clusters = np.array(prompts)
    rows = [np.flatnonzero(clusters == cluster) for cluster in np.unique(clusters)]
    draws = np.random.default_rng(0)
    values = []
    for _ in range(300):
        chosen = np.concatenate([rows[i] for i in draws.integers(len(rows), size=len(rows))])
        values.append(statistic(wanted_N_K[chosen], obtained_N_K[chosen]))
    low, high = np.quantile(values, [0.025, 0.975])
    value = statistic(wanted_N_K, obtained_N_K)
    return {"value": value, "low": float(low), "high": float(high), "n": len(clusters), "clusters": len(rows)}


def cost(folder: Path) -> Iterator[tuple[str, float]]:
    """Yield the tokens that a stage trained on and sampled, where it says so, and the CPU time it took."""
    alone, record = folder / "cost.json", folder / "done.json"  # a stage in a run folder says what it took itself
    done = json.loads(record.read_text(encoding="utf-8")) if record.is_file() else {}
    if done:
        yield from _tokens(done["summary"])
    spent = done if "cpu_seconds" in done or not alone.is_file() else json.loads(alone.read_text(encoding="utf-8"))
    if "cpu_seconds" in spent:
        yield "cpu_seconds", spent["cpu_seconds"]


def _tokens(summary: Mapping[str, Any]) -> Iterator[tuple[str, float]]:
    trained = 0.0
    sampled: list[float | None] = []
    for part in summary.get("rounds", [summary]):
        training = part.get("training", part)
        tokens = training.get("train_tokens", training.get("trained_tokens"))
        if tokens is None:
            tokens = training["train"]["tokens"]
        trained += tokens * (training.get("epochs") or 1.0)
        sampled.append(part.get("sampled_tokens") or training.get("sampled_tokens"))
    yield "trained_tokens", round(trained)
    if all(sampled):
        yield "sampled_tokens", round(sum(filter(None, sampled)))


def report(folder: Path) -> Iterator[Mapping[str, Any]]:
    """Yield what a stage's own report says of each of its rounds."""
    found = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    for row in found.get("rounds", [found]):
        training, held_out = row["training"], row["held_out"]
        tokens = training.get("train_tokens") or training.get("trained_tokens") or training["train"]["tokens"]
        yield {
            "steps": training["steps"],
            "trained_tokens": round(tokens * (training.get("epochs") or 1.0)),
            "error": held_out["error"]["mean"],
            "quality": held_out.get("quality"),
            "divergence": [row["divergence_before"], training["validation_loss"]]
            if "divergence_before" in row
            else None,
        }


def table(which: str) -> str:
    """The rows of a table, and how they were measured."""
    stored = _stored().get(which)
    if not stored:
        return "Not measured yet.\n"
    header = [
        "", "seeds", "error, levels", "minus SFT", "each seed", "Spearman", "side effects", "quality at the best",
        "distinct-2", "tokens trained", "tokens sampled", "CPU time",
    ]  # fmt: skip
    names = [*(name for name in ROWS if name in stored), *(name for name in stored if name not in ROWS)]
    lines = []
    for name in names:
        seeds = [row for _, row in sorted(stored[name].items(), key=lambda pair: int(pair[0]))]
        spent = [row.get("cost") or {} for row in seeds]
        lines.append(
            [
                ROWS.get(name, name),
                str(len(seeds)),
                estimate_text(_pooled(seeds, "error"), 3),
                DASH if name == "sft" else estimate_text(_pooled(seeds, "difference"), 3),
                " / ".join(number(row["error" if name == "sft" else "difference"]["value"], 3) for row in seeds),
                *(
                    _over([row[key]["value"] for row in seeds], 3) if all(row[key] for row in seeds) else DASH
                    for key in ("spearman", "side_effects", "quality")
                ),
                _over([row["distinct_2"] for row in seeds], 3),
                *(
                    _over([cost[key] / 1e3 for cost in spent], 0) + " k" if all(key in cost for cost in spent) else DASH
                    for key in ("trained_tokens", "sampled_tokens")
                ),
                _over([cost["cpu_seconds"] for cost in spent], 0) + " s"
                if all("cpu_seconds" in cost for cost in spent)
                else DASH,
            ]
        )
    return markdown_table(header, lines) + f"\n{_how(stored, MEASURED_BY[which])}\n"


def _pooled(seeds: Sequence[Mapping[str, Any]], key: str) -> Estimate:
    """Return the mean of a figure over seeds and prompts, with an interval from resampled prompts of every seed."""
    import numpy as np

    from steerlm.statistics.estimates import cluster_bootstrap, mean

    if len(seeds) == 1:
        return from_json(Estimate, seeds[0][key])
    values_N = np.concatenate([row[f"{key}_by_prompt"] for row in seeds])
    return cluster_bootstrap(mean, [values_N], list(range(len(values_N))))


def _over(values: Sequence[float], digits: int) -> str:
    """Return the mean over seeds, and the lowest and the highest."""
    low, high = min(values), max(values)
    middle = number(sum(values) / len(values), digits)
    return middle if len(values) == 1 else f"{middle} [{number(low, digits)}, {number(high, digits)}]"


def _how(stored: Mapping[str, Any], measured_by: str) -> str:
    one = stored["sft"][min(stored["sft"], key=int)]
    seeds = {seed for row in stored.values() for seed in row}
    return (
        f"{one['error']['clusters']} held-out prompts, each at {_SETTINGS} settings of the training labels "
        f"({one['error']['n']} answers) and at the best one; temperature {_TEMPERATURE}, top-k {_TOP_K}; "
        f"{measured_by}. Error: the mean over the dials of |obtained - requested|. Minus SFT: the same requests, "
        "paired; below zero is better. In brackets behind these two: 95 % intervals from resampled prompts, seeds "
        "pooled; behind the others: the lowest and the highest seed. Spearman: the mean over the dials. Side effects: "
        "levels that a dial moves another by per level, the mean over all pairs, by least squares (0 would be none; "
        f"chance alone gives more). Seeds: {', '.join(sorted(seeds, key=int))}. Tokens and CPU time are those of the "
        "step alone, without the fine-tuning before it; the time holds its own comparison on held-out prompts."
    )


def weights() -> str:
    """What the weights of a refinement promise, before anything is trained, by the concentration."""
    stored = _stored().get("weights", [])
    if not stored:
        return "Not measured yet.\n"
    lines = []
    for row in stored:
        drawn, weighed, change = (from_json(Estimate, row[key]) for key in ("drawn", "weighed", "change"))
        lines.append(
            [
                number(row["concentration"], 0),
                estimate_text(drawn, 3),
                estimate_text(weighed, 3),
                estimate_text(change, 3),
                number(row["effective_responses"], 1),
            ]
        )
    header = [
        "concentration",
        "error of the samples",
        "as weighed by w",
        "difference",
        "responses that carry the weight",
    ]
    n = stored[0]["drawn"]["n"]
    note = (
        f"\nOn {n} requests with ten samples each (seed 0), by the exact measures; intervals from resampled requests.\n"
    )
    return markdown_table(header, lines) + note


def reports() -> str:
    """What the stages' own reports say: before and after on held-out prompts, by the attribute model."""
    stored = _stored().get("reports", {})
    if not stored:
        return "Not measured yet.\n"
    lines, sizes = [], set()
    for name, row in stored.items():
        before, after, difference = (
            from_json(Estimate, row["error"][key]) for key in ("before", "after", "difference")
        )
        quality = None if row["quality"] is None else from_json(Estimate, row["quality"]["difference"])
        divergence = row["divergence"]
        sizes.add((before.clusters, before.n))
        lines.append(
            [
                ROWS.get(name, name),
                estimate_text(before, 3),
                estimate_text(after, 3),
                estimate_text(difference, 3),
                DASH if quality is None else estimate_text(quality, 3),
                DASH if divergence is None else f"{number(divergence[0], 3)} to {number(divergence[1], 3)}",
                str(row["steps"]),
                number(row["trained_tokens"] / 1e3, 0) + " k",
            ]
        )
    header = [
        "", "error before, levels", "after", "difference", "quality, difference", "held-out KL of w from b",
        "steps", "tokens trained",
    ]  # fmt: skip
    clusters, count = max(sizes)
    note = (
        f"\nBy the attribute model, on {clusters} groups of held-out prompts ({count} values), one seed (0); 95 % "
        "intervals from resampled prompts. Below zero is better for the error.\n"
    )
    return markdown_table(header, lines) + note


BLOCKS = {
    "beyond": partial(table, "rows"),
    "beyond-rested": partial(table, "rested"),
    "beyond-real": partial(table, "real"),
    "beyond-real-scored": partial(table, "real_scored"),
    "beyond-reports": reports,
    "beyond-weights": weights,
    "beyond-proposed": proposed,
}


def main() -> int:
    """Measure the models named on the command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("models", nargs="*", metavar="ROW=MODEL")
    parser.add_argument(
        "--report", nargs="*", default=[], metavar="ROW=STAGE_FOLDER", help="keep the stage's own report"
    )
    parser.add_argument("--cost", nargs="*", default=[], metavar="ROW=STAGE_FOLDER")
    parser.add_argument("--seed", type=int, default=0, help="under which the rows are kept")
    parser.add_argument("--num-prompts", type=int, help="default: all")
    parser.add_argument("--scorer", type=Path, help="attribute model that says what the schema does not measure")
    given = parser.parse_args()
    models, costs, folders = (
        {name: Path(path) for name, _, path in (pair.partition("=") for pair in pairs)}
        for pairs in (given.models, given.cost, given.report)
    )
    for name, folder in folders.items():
        stored = _stored()
        rounds = {f"{name}-{i}" if i > 1 else name: dict(row) for i, row in enumerate(report(folder), 1)}
        FILE.write_text(json.dumps(stored | {"reports": stored.get("reports", {}) | rounds}, indent=1) + "\n", "utf-8")
    if models:
        add(given.run, models, costs, given.seed, given.num_prompts, given.scorer)
    return 0


def add(
    run: Path,
    models: Mapping[str, Path],
    costs: Mapping[str, Path],
    seed: int,
    num_prompts: int | None = None,
    scorer: Path | None = None,
) -> None:
    """Measure models of a run beside its fine-tuned one, and keep each row as it is found."""
    before = measured(run, run / "train_sft" / "model", num_prompts, scorer)
    is_measured = before["measured"]
    tables = {"real": is_measured, "real_scored": [not exact for exact in is_measured]}
    if scorer is None:
        tables = {"rows": [True] * len(is_measured)}
    for name, model in models.items():
        shown = _SHOWN if name == "demonstrations" else 0
        found = before if name == "sft" else measured(run, model, num_prompts, scorer, shown)
        spent = dict(cost(costs[name])) if name in costs else None
        stored = _stored()
        for which, chosen in tables.items():
            row = {**figures(some_dials(found, chosen), some_dials(before, chosen)), "cost": spent}
            print(which, name, row["error"], row["difference"], row["spearman"], row["error_by_dial"], flush=True)
            stored.setdefault(which, {}).setdefault(name, {})[str(seed)] = row
        FILE.write_text(json.dumps(stored, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    sys.exit(main())

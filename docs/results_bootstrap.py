"""Measure what bootstrapping changes: the exact error of the dials of models on a playground run's held-out prompts.

    python docs/results_bootstrap.py runs/playground before=runs/playground/train_sft/model nearest=OUT/model …
    make docs

Every held-out prompt is asked for three settings of the training labels; the first model named is what the others are
compared with, request by request. The rows are added to `docs/results/bootstrap/seed-N.json`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from steerlm.reporting.formatting import estimate_text, markdown_table
from steerlm.results.codec import from_json
from steerlm.statistics.estimates import Estimate

FOLDER = Path(__file__).resolve().parent / "results" / "bootstrap"
_SETTINGS, _MAX_NEW_TOKENS, _TEMPERATURE, _TOP_K = 3, 160, 0.7, 50


def errors(run: Path, model: Path) -> list[list[float]]:
    """Return the error of every dial in every answer, in levels."""
    import numpy as np

    from steerlm.checkpoint.models import load_info
    from steerlm.conversation import Message
    from steerlm.generation.engine import Request, Sampling, load_engine
    from steerlm.playground.measuring import measure
    from steerlm.stages.evaluate.sweeping import read_prompts, seen_combinations

    info = load_info(run / "train_sft" / "model")
    known = [c for c, _ in seen_combinations(info.label_statistics, info.schema) if len(c) == len(info.schema)]
    prompts = read_prompts(run / "playground" / "prompts.jsonl", info.schema, None, 0)
    draws = np.random.default_rng(5)
    requests = [
        Request(prompt.messages, known[int(draws.integers(len(known)))], seed=prompt.seed * _SETTINGS + k)
        for prompt in prompts
        for k in range(_SETTINGS)
    ]
    answers = load_engine(model, batch_size=128).generate(requests, Sampling(_MAX_NEW_TOKENS, _TEMPERATURE, _TOP_K))
    found = []
    for request, [answer] in zip(requests, answers, strict=True):
        values = measure((*request.messages, Message("assistant", answer.text)))
        wanted = request.attributes or {}
        found.append([abs(values[name] - float(wanted[name])) for name in info.schema.names])
    return found


def rows(run: Path, models: dict[str, Path], names: tuple[str, ...]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield the figures of every model."""
    import numpy as np

    from steerlm.statistics.estimates import cluster_bootstrap, mean

    before: Any = None
    for name, model in models.items():
        error_N_K = np.array(errors(run, model))
        before = error_N_K if before is None else before
        prompt_N = [i // _SETTINGS for i in range(len(error_N_K))]

        def estimate(values_N: Any, prompt_N: list[int] = prompt_N) -> dict[str, object]:
            return cluster_bootstrap(mean, [values_N], prompt_N).to_dict()

        difference_N_K = error_N_K - before
        row = {
            "error": estimate(error_N_K.mean(axis=1)),
            "difference": estimate(difference_N_K.mean(axis=1)),
            "by_dial": {n: estimate(error_N_K[:, k]) for k, n in enumerate(names)},
            "difference_by_dial": {n: estimate(difference_N_K[:, k]) for k, n in enumerate(names)},
        }
        print(name, row["error"], row["difference"], flush=True)
        yield name, row


def _table(seeds: list[int], wanted: dict[str, str]) -> str:
    header = ["", *(f"seed {seed}: error" if len(seeds) > 1 else "error in levels" for seed in seeds)]
    stored = [json.loads((FOLDER / f"seed-{seed}.json").read_text(encoding="utf-8")) for seed in seeds]
    lines = []
    for name, title in wanted.items():
        if not any(name in file for file in stored):
            continue
        cells = []
        for row in (file.get(name) for file in stored):
            if row is None:
                cells.append("")
                continue
            error, difference = (from_json(Estimate, row[key]) for key in ("error", "difference"))
            share = 100 * difference.value / (error.value - difference.value)
            changed = "" if difference.value == 0 else f"; {share:+.0f} %, by {estimate_text(difference, 3)}"
            cells.append(f"{estimate_text(error, 3)}{changed}")
        lines.append([title, *cells])
    return markdown_table(header, lines)


def experiments() -> str:
    """What each choice is worth, on one seed."""
    return _table([0], _EXPERIMENTS)


def labels() -> str:
    """How wrong the label of a record is, by which answers are kept and what they are conditioned on."""
    stored = json.loads((FOLDER / "labels.json").read_text(encoding="utf-8"))
    rows = {
        "any answer, the attribute model's levels": "predicted_all",
        "the answer of 8 that is nearest to the request, the attribute model's levels": "predicted_best",
        "the same answer, what was requested": "requested_best",
        "the same, prompts without success dropped": "requested_success",
    }
    lines = [[title, estimate_text(from_json(Estimate, stored[key]), 3)] for title, key in rows.items()]
    return markdown_table(["a record's answer and its label", "label's error, levels"], lines)


def seeds() -> str:
    """Both modes on several playgrounds."""
    numbers = sorted(int(path.stem.removeprefix("seed-")) for path in FOLDER.glob("seed-*.json"))
    wanted = {"before": "before", "paper": "`mode: paper`", "nearest": "`mode: nearest` (the recipe's)"}
    return _table(numbers, {**wanted, "nearest-2": "`mode: nearest`, 1,024 prompts, two rounds"})


_EXPERIMENTS = {
    "before": "before",
    "agreement": "`mode: paper`, `filter: agreement`, 320 prompts of 4, six old records to a new one",
    "predicted": "best of 8 kept, conditioned on the attribute model's levels",
    "requested": "the same answers, conditioned on the request",
    "success": "the same, prompts without success dropped",
    "mixed": "the same answers and as many old records",
    "hot": "sampled at temperature 1 instead of 0.7",
    "fast": "at half the first learning rate instead of a quarter",
    "slow": "at a thirteenth of it",
    "long": "for two epochs",
    "four": "640 prompts, best of 4",
    "two-last": "two rounds, the second from the first's model on its own samples",
    "two-pooled": "two rounds' samples pooled, from the first fine-tuning",
}


def budget() -> str:
    """How 2,048 answers are best spent, and what is trained on them."""
    stored = json.loads((FOLDER / "budget.json").read_text(encoding="utf-8"))
    keys = ("seed", "prompts", "samples", "kept", "old_records", "learning_rate_share", "epochs", "guidance")
    lines = [
        [*(f"{row[key]:g}" for key in keys), *(estimate_text(from_json(Estimate, row[key]), 3) for key in _FIGURES)]
        for row in stored
    ]
    header = [
        "seed", "prompts", "answers each", "most kept", "old records to a new one", "share of the first rate",
        "epochs", "samples turned up", "error in levels", "minus before",
    ]  # fmt: skip
    return markdown_table(header, lines)


_FIGURES = ("error", "difference")
BLOCKS = {
    "bootstrap-budget": budget,
    "bootstrap-experiments": experiments,
    "bootstrap-labels": labels,
    "bootstrap-seeds": seeds,
}


def main() -> int:
    """Measure the models named on the command line."""
    from steerlm.checkpoint.models import load_info
    from steerlm.config import load_recipe

    run, *pairs = sys.argv[1:]
    models = {name: Path(path) for name, _, path in (pair.partition("=") for pair in pairs)}
    names = load_info(Path(run) / "train_sft" / "model").schema.names
    path = FOLDER / f"seed-{load_recipe(Path(run) / 'recipe.yaml').seed}.json"
    FOLDER.mkdir(parents=True, exist_ok=True)
    for name, row in rows(Path(run), models, names):
        stored = json.loads(path.read_text(encoding="utf-8")) if path.is_file() else {}
        path.write_text(json.dumps({**stored, name: row}, indent=1) + "\n", encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""What guidance does to the dials of a run on a real model, for the pages that show one.

    python docs/results_turned_up.py PAGE --evaluations PLAIN GUIDED --tuned TUNED
    python docs/results_turned_up.py PAGE --several MODEL --prompts FILE
    python docs/results_turned_up.py PAGE --bootstrap OUT BOTH --turned EVALUATION [--again]

PAGE is a folder of `docs/results/`. PLAIN and GUIDED are evaluations of one model on the same prompts, its dials as
trained and each at its strength; TUNED is the folder of `steerlm tune-guidance`. `--several` asks MODEL for settings of
several measured dials at once: as trained, each dial at its own strength, and together at the least, as it is served.
`--bootstrap` takes a bootstrapping from samples that were turned up and an evaluation of the models before and after
it, as trained; `--turned` one of the model after it, at the strengths that were chosen for it; `--again` keeps them
beside those of an earlier run.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from stored_run import StoredRun

from steerlm.attributes import AttributeSchema
from steerlm.reporting.formatting import DASH, estimate_text, markdown_table, number
from steerlm.results.codec import from_json, to_json
from steerlm.results.dials import DialResult
from steerlm.results.evaluation import PairedDifferences, read_evaluation
from steerlm.statistics.estimates import Estimate, cluster_bootstrap, mean

FOLLOWED = (
    "obtained, lowest level to highest", "Spearman", "error, levels", "slope", "largest side effect, levels per level",
)  # fmt: skip
"""Columns that say how a dial follows."""
_SETTINGS_PER_PROMPT = 6
NOT_MEASURED = "Not measured.\n"
BOOTSTRAP, BOOTSTRAP_AGAIN = "bootstrap_turned_up.json", "bootstrap_again.json"


def copy(stored: StoredRun, plain: Path, guided: Path, tuned: Path) -> None:
    """Keep two evaluations of a model on the same prompts, and how its strengths were chosen."""
    stored.write("guided.json", {"as trained": followed(plain), "guided": followed(guided)})
    stored.write("tuned.json", json.loads((tuned / "done.json").read_text())["summary"])


def followed(folder: Path) -> dict[str, Any]:
    """Return how the dials of an evaluation's last model follow."""
    results = read_evaluation(folder)
    assert results is not None
    statistics_of = results.models[results.final].answers["all"]
    return {
        "guidance": results.settings.get("guidance", 1.0),
        "prompts": results.prompts.used,
        "answers": results.asks,
        "settings": list(results.drawing.settings),
        "degenerate": to_json(statistics_of.degenerate),
        "dials": {
            row.attribute: {"scorer": row.scorer.text, **to_json(row.dial)}
            for row in results.headline_dials()
            if row.model == results.final
        },
    }


def followed_cells(dial: DialResult) -> list[str]:
    """Return the cells under `FOLLOWED`."""
    leak = dial.largest_leak
    return [
        " ".join(number(point.estimate.value, 1) for point in dial.curve),
        *(estimate_text(figure) for figure in (dial.spearman, dial.mae, dial.slope)),
        f"{estimate_text(leak.estimate)} on {leak.attribute}" if leak else DASH,
    ]


def guided(stored: StoredRun) -> str:
    """The dials as trained, and each at a strength."""
    found = stored.read("guided.json")
    strengths = found["guided"]["guidance"]
    rows = []
    for name in found["guided"]["dials"]:
        taken = strengths.get(name, 1)
        for way, strength in (("as trained", 1), ("guided", taken))[: 1 if taken == 1 else 2]:
            row = found[way]["dials"][name]
            rows.append([name, f"{strength:g}", row["scorer"], *followed_cells(from_json(DialResult, row))])
    broken = " and ".join(f"{100 * found[way]['degenerate']['value']:.1f} %" for way in ("as trained", "guided"))
    note = (
        f"\n{found['guided']['prompts']} held-out prompts, {found['as trained']['answers']} and "
        f"{found['guided']['answers']} answers; the other dials stand at: {', '.join(found['guided']['settings'])}. "
        f"Degenerate answers (loops and the like): {broken}.\n"
    )
    return markdown_table(["dial", "strength", "measured by", *FOLLOWED], rows) + note


def tuned(stored: StoredRun) -> str:
    """The error that every strength left, and which one was taken."""
    found = stored.read("tuned.json")
    rows = []
    for name, errors in found["errors"].items():
        shares = found["degenerate"][name]
        cells = (
            number(error, 2) + (f" ({100 * share:.0f} %)" if share else "")
            for error, share in zip(errors, shares, strict=True)
        )
        rows.append([name, *cells, f"{found['strengths'][name]:g}"])
    note = (
        f"\nMean error in levels on {found['prompts']} prompts, the other dials at their defaults; in brackets the "
        "answers that fall apart, where there are any.\n"
    )
    return markdown_table(["dial", *(f"{strength:g}" for strength in found["tried"]), "taken"], rows) + note


def measure_several(stored: StoredRun, model: Path, prompts: Path, num_prompts: int, seed: int = 0) -> None:
    """Ask for random settings of two and of three measured dials, and measure how far the answers are from them."""
    from steerlm.checkpoint.info import load_info
    from steerlm.conversation import Message
    from steerlm.generation.engine import Request, Sampling, load_engine
    from steerlm.generation.guidance import turned_strengths
    from steerlm.scorers import measures
    from steerlm.scorers.dials import open_dials
    from steerlm.stages.evaluate.sweeping import read_prompts

    info = load_info(model)
    schema, own = info.schema, info.strengths
    dials = [attribute.name for attribute in schema.ordinal if attribute.measure]
    asked = read_prompts(prompts, schema, num_prompts, seed)
    settings = [_settings(schema, dials, np.random.default_rng((seed, i))) for i in range(len(asked))]
    ways = {
        "as trained": lambda turned: {},
        "each at its own strength": lambda turned: {name: own[name] for name in turned if name in own},
        "together, at the least": lambda turned: turned_strengths(schema, turned, own),
    }
    engine = load_engine(model, batch_size=32)
    [scorer] = open_dials(schema)
    found: dict[str, Any] = {"prompts": len(asked), "settings": _SETTINGS_PER_PROMPT, "dials": dials, "ways": {}}
    errors: dict[str, list[float]] = {}
    for way, strengths_of in ways.items():
        requests, turned = [], []
        for prompt, mine in zip(asked, settings, strict=True):
            for k, wanted in enumerate(mine):
                strengths = strengths_of(wanted) or None
                setting = {**schema.defaults, **wanted}
                requests.append(Request(prompt.messages, setting, seed=prompt.seed + k, guidance=strengths))
                turned.append(wanted)
        answers = [sample.text for [sample] in engine.generate(requests, Sampling(96, 0.7, 50))]
        scores = scorer.score(
            [(*r.messages, Message("assistant", text)) for r, text in zip(requests, answers, strict=True)]
        )
        errors[way] = [
            float(np.mean([abs(said[name].mean - wanted[name]) for name in wanted if said and name in said]))
            for said, wanted in zip(scores, turned, strict=True)
        ]
        clusters = [prompt.cluster for prompt in asked for _ in range(_SETTINGS_PER_PROMPT)]
        against = np.array(errors[way]) - np.array(errors["as trained"])
        found["ways"][way] = {
            "error": to_json(cluster_bootstrap(mean, [np.array(errors[way])], clusters)),
            "minus_as_trained": to_json(cluster_bootstrap(mean, [against], clusters)),
            "degenerate": float(np.mean([measures.is_degenerate(text) for text in answers])),
            "prompts_per_token": float(np.mean([1 + len(set(strengths_of(wanted).values())) for wanted in turned])),
        }
    stored.write("several.json", found)


def _settings(schema: AttributeSchema, dials: Sequence[str], rng: np.random.Generator) -> list[dict[str, int]]:
    """Draw settings that turn two dials, and as many that turn three, away from their defaults."""
    out = []
    for k in range(_SETTINGS_PER_PROMPT):
        turned = rng.permutation(dials)[: 2 + k % 2]
        out.append(
            {
                name: int(rng.choice([x for x in schema[name].levels if x != schema[name].default_value]))
                for name in (str(name) for name in turned)
            }
        )
    return out


def several(stored: StoredRun) -> str:
    """Several dials at once, by how their strengths are combined."""
    found = stored.read("several.json")
    rows = [
        [
            way,
            estimate_text(from_json(Estimate, row["error"])),
            DASH if way == "as trained" else estimate_text(from_json(Estimate, row["minus_as_trained"])),
            f"{100 * row['degenerate']:.1f} %",
            number(row["prompts_per_token"], 1),
        ]
        for way, row in found["ways"].items()
    ]
    note = (
        f"\n{found['prompts']} held-out prompts, {found['settings']} settings each that turn two or three of "
        f"{', '.join(found['dials'])} away from their defaults; error: mean over the dials that are turned.\n"
    )
    head = ["strengths", "error, levels", "minus as trained", "degenerate answers", "prompts per token"]
    return markdown_table(head, rows) + note


def copy_bootstrap(stored: StoredRun, out: Path, both: Path, turned: Path | None, file: str = BOOTSTRAP) -> None:
    """Keep what was sampled and kept, and the dials of the models before and after."""
    results = read_evaluation(both)
    assert results is not None
    done = json.loads((out / "report.json").read_text(encoding="utf-8"))["rounds"][-1]
    found = {
        "kept": {key: done[key] for key in ("prompts", "samples", "kept", "prompts_without_success", "temperature")},
        "best_step": done["training"]["best_step"],
        "by_annotator": done["held_out"],
        "answers": results.asks,
        "dials": [[row.model, row.attribute, row.scorer.text, to_json(row.dial)] for row in results.headline_dials()],
        "comparisons": to_json(results.comparisons),
        "degenerate": {name: to_json(model.answers["all"].degenerate) for name, model in results.models.items()},
        "turned": None if turned is None else followed(turned),
    }
    stored.write(file, found)


def bootstrap(stored: StoredRun, file: str = BOOTSTRAP) -> str:
    """The dials before and after, as trained, and what differs in pairs."""
    found = stored.read(file)
    dials: dict[str, list[DialResult]] = {}
    for _, name, _, dial in found["dials"]:
        dials.setdefault(name, []).append(from_json(DialResult, dial))
    who = {name: scorer for _, name, scorer, _ in found["dials"]}
    comparisons = [from_json(PairedDifferences, row) for row in found["comparisons"]]
    differences = {name: row for comparison in comparisons for name, row in comparison.attributes.items()}
    rows = [
        [
            name,
            who[name],
            *(estimate_text(getattr(dial, key)) for key in ("spearman", "mae") for dial in pair),
            estimate_text(differences[name].mae),
        ]
        for name, pair in dials.items()
    ]
    for comparison in comparisons:
        title = f"mean over {', '.join(comparison.attributes)}"
        rows.append([title, "", "", "", "", "", estimate_text(comparison.mean.mae)])
    kept = found["kept"]
    broken = " and ".join(f"{100 * share['value']:.1f} %" for share in found["degenerate"].values())
    note = (
        f"\n{kept['samples']} answers to {kept['prompts']} training prompts, {kept['kept']} kept "
        f"({kept['prompts_without_success']} prompts had none). Both models asked the same, {found['answers']} answers "
        f"each, one prompt per token; degenerate: {broken}.\n"
    )
    head = ["dial", "measured by", "Spearman before", "after", "error before", "after", "error, difference"]
    return markdown_table(head, rows) + note


def bootstrap_turned(stored: StoredRun, file: str = BOOTSTRAP) -> str:
    """The bootstrapped model's dials, each at the strength that was chosen for it."""
    if (found := stored.read(file)["turned"]) is None:
        return NOT_MEASURED
    strengths = found["guidance"] if isinstance(found["guidance"], dict) else {}
    rows = [
        [name, f"{strengths.get(name, 1):g}", *followed_cells(from_json(DialResult, row))]
        for name, row in found["dials"].items()
    ]
    note = f"\n{found['answers']} answers; degenerate: {100 * found['degenerate']['value']:.1f} %.\n"
    return markdown_table(["dial", "strength", *FOLLOWED], rows) + note


def main() -> None:
    """Copy or measure what the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", 1)[0])
    parser.add_argument("page", type=Path)
    parser.add_argument("--evaluations", type=Path, nargs=2, metavar=("PLAIN", "GUIDED"))
    parser.add_argument("--tuned", type=Path)
    parser.add_argument("--bootstrap", type=Path, nargs=2, metavar=("OUT", "BOTH"))
    parser.add_argument("--turned", type=Path, metavar="EVALUATION")
    parser.add_argument("--again", action="store_true")
    parser.add_argument("--several", type=Path, metavar="MODEL")
    parser.add_argument("--prompts", type=Path)
    parser.add_argument("--num-prompts", type=int, default=20)
    given = parser.parse_args()
    if bool(given.evaluations) != bool(given.tuned) or (given.turned and not given.bootstrap):
        parser.error("--evaluations and --tuned belong together, and --turned to --bootstrap")
    stored = StoredRun(given.page)
    if given.several:
        measure_several(stored, given.several, given.prompts, given.num_prompts)
    if given.bootstrap:
        copy_bootstrap(stored, *given.bootstrap, given.turned, BOOTSTRAP_AGAIN if given.again else BOOTSTRAP)
    if given.evaluations:
        copy(stored, *given.evaluations, given.tuned)


if __name__ == "__main__":
    main()

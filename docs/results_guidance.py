"""Measure guidance on a playground run: how the dials follow and what quality remains, against strength.

    python docs/results_guidance.py runs/playground        (after `make quickstart`; some twenty minutes on two cores)
    make docs

Answers are drawn and measured as `steerlm evaluate` does it (prompts, settings, seeds and exact measures); only the
strength differs. Only numbers and samples are kept, in `docs/results/guidance/`; the page is made from them alone.
"""

from __future__ import annotations

import dataclasses
import io
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlm.reporting.formatting import estimate_text, markdown_table
from steerlm.results.codec import from_json
from steerlm.statistics.estimates import Estimate

if TYPE_CHECKING:
    from steerlm.generation.engine import LocalEngine
    from steerlm.stages.evaluate.fidelity import Sweeps
    from steerlm.stages.evaluate.sweeping import SweepPlan

FOLDER = Path(__file__).resolve().parent / "results" / "guidance"
STRENGTHS = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0)
WAYS = ("turned", "all")
"""Which dials have the strength: the one that is turned, or all of them."""
_NUM_PROMPTS, _SEED, _MAX_NEW_TOKENS, _TEMPERATURE, _TOP_K = 48, 0, 160, 0.7, 50
_INK, _OTHER, _GRID = "#1f4e79", "#e07b39", "#d9d9d9"


def measure(run: Path) -> dict[str, Any]:
    """Let the run's final model answer at every strength, and at levels between levels."""
    from steerlm.checkpoint.info import load_info
    from steerlm.generation.engine import load_engine
    from steerlm.stages.evaluate.sweeping import make_plan, read_prompts, seen_combinations

    model = run / "bootstrap" / "model"
    engine = load_engine(model, batch_size=128)
    schema = engine.schema
    prompts = read_prompts(run / "playground" / "prompts.jsonl", schema, _NUM_PROMPTS, _SEED)
    known = seen_combinations(load_info(model).label_statistics, schema)

    def plan_of(levels: Mapping[str, Sequence[Any]]) -> SweepPlan:
        return make_plan(prompts, schema, ("defaults", "random"), known, _SEED, levels)

    plans = {a.name: plan_of({a.name: a.levels}) for a in schema}
    ordinary = _answer(engine, plans, 1.0, "turned")
    ways = {}
    for way in WAYS:
        found = {s: ordinary if s == 1 else _answer(engine, plans, s, way) for s in STRENGTHS}
        ways[way] = {str(strength): _describe(engine, found[strength], ordinary) for strength in STRENGTHS}
    between = {a.name: _between(engine, plan_of({a.name: a.levels[:-1]}), a.name) for a in schema.ordinal}
    return {
        "attributes": schema.to_dict(),
        "prompts": len(prompts),
        "answers": len(ordinary.answers),
        "seed": _SEED,
        "temperature": _TEMPERATURE,
        "strengths": STRENGTHS,
        "ways": ways,
        "between": between,
        "samples": _samples(engine, plans),
        "environment": json.loads((run / "environment.json").read_text(encoding="utf-8")),
    }


@dataclasses.dataclass(frozen=True)
class _Answered:
    """The sweeps of all dials, answered; `sweeps` is what the exact measure found."""

    plan: SweepPlan
    answers: list[dict[str, Any]]
    sweeps: Sweeps


def _answer(engine: LocalEngine, plans: Mapping[str, SweepPlan], strength: float, way: str) -> _Answered:
    """Answer the plans of all dials and join them into one."""
    from steerlm.stages.evaluate.sweeping import SweepPlan

    asks: list[Any] = []
    cells: list[Any] = []
    answers: list[dict[str, Any]] = []
    for dial, plan in plans.items():
        names = [dial] if way == "turned" else engine.schema.names
        rows = _draw(engine, plan, [dict(ask.attributes) for ask in plan.asks], dict.fromkeys(names, strength))
        series = 1 + max((cell.series for cell in cells), default=-1)
        cells += [
            dataclasses.replace(cell, ask=cell.ask + len(asks), series=cell.series + series) for cell in plan.cells
        ]
        asks += plan.asks
        answers += rows
        print(f"{way} {strength:g} {dial}: {len(rows)} answers", flush=True)
    joined = SweepPlan(next(iter(plans.values())).prompts, tuple(asks), tuple(cells))
    return _Answered(joined, answers, _sweeps(engine, joined, answers))


def _draw(
    engine: LocalEngine, plan: SweepPlan, settings: Sequence[Mapping[str, Any]], guidance: Mapping[str, float]
) -> list[dict[str, Any]]:
    """Answer every ask of a plan, at the given settings."""
    from steerlm.generation.engine import Request, Sampling

    requests = [
        Request(prompt.messages, setting, 1, prompt.seed, guidance)
        for prompt, setting in zip((plan.prompts[a.prompt] for a in plan.asks), settings, strict=True)
    ]
    samples = engine.generate(requests, Sampling(_MAX_NEW_TOKENS, _TEMPERATURE, _TOP_K))
    return [{"samples": [dataclasses.asdict(sample) for sample in row]} for row in samples]


def _sweeps(engine: LocalEngine, plan: SweepPlan, answers: Sequence[dict[str, Any]]) -> Sweeps:
    from steerlm import playground
    from steerlm.conversation import Message
    from steerlm.stages.evaluate.observing import lay_out_sweeps

    scores = []
    for ask, row in zip(plan.asks, answers, strict=True):
        messages = plan.prompts[ask.prompt].messages
        measured = [playground.measure((*messages, Message("assistant", s["text"]))) for s in row["samples"]]
        scores.append({"ask": len(scores), "scores": measured})
    names = [attribute.name for attribute in engine.schema.ordinal]
    return lay_out_sweeps(plan, engine.schema, answers, scores, names)


def _describe(engine: LocalEngine, found: _Answered, ordinary: _Answered) -> dict[str, Any]:
    """Fidelity, quality and defects at one strength, and the difference from ordinary decoding on the same asks."""
    from steerlm.results.codec import to_json
    from steerlm.stages.evaluate.describing import answer_statistics
    from steerlm.stages.evaluate.fidelity import dial_report, paired_comparison
    from steerlm.statistics.estimates import cluster_bootstrap, mean

    schema, sweeps = engine.schema, found.sweeps
    kept = ("mae", "spearman", "slope", "curve")
    reports = {a.name: to_json(dial_report(sweeps, a)) for a in schema.ordinal}
    dials = {name: {key: report[key] for key in kept} for name, report in reports.items()}
    mean_difference, differences = paired_comparison(ordinary.sweeps, sweeps, schema.ordinal)
    # helpfulness while another dial is turned and everything else, helpfulness too, stands at its default (its best)
    rows = (sweeps.context == "defaults") & (sweeps.dial != "helpfulness")
    helpful = sweeps.obtained["helpfulness"]
    asked_best = (sweeps.dial == "helpfulness") & (sweeps.requested == schema["helpfulness"].maximum)
    statistics = to_json(answer_statistics(found.plan, found.answers, schema)["all"])

    def change(weights: Any, now: Any, before: Any) -> Any:
        return mean(weights, now - before)

    return {
        "dials": dials,
        "against_ordinary": to_json({"mean": mean_difference, "attributes": differences}),
        "helpfulness_at_best": cluster_bootstrap(mean, [helpful[asked_best]], sweeps.cluster[asked_best]).to_dict(),
        "helpfulness_elsewhere": cluster_bootstrap(mean, [helpful[rows]], sweeps.cluster[rows]).to_dict(),
        "helpfulness_elsewhere_change": cluster_bootstrap(
            change, [helpful[rows], ordinary.sweeps.obtained["helpfulness"][rows]], sweeps.cluster[rows]
        ).to_dict(),
        **{name: statistics[name] for name in ("degenerate", "unfinished", "tokens", "distinct_1", "distinct_2")},
    }


def _between(engine: LocalEngine, plan: SweepPlan, dial: str) -> list[dict[str, Any]]:
    """What comes of a request half-way between two levels; the plan names the lower one."""
    from steerlm.statistics.estimates import cluster_bootstrap, estimate_share, mean

    def half_up(attributes: Mapping[str, Any]) -> dict[str, Any]:
        return {**attributes, dial: attributes[dial] + 0.5}

    answers = _draw(engine, plan, [half_up(ask.attributes) for ask in plan.asks], {})
    sweeps = _sweeps(engine, plan, answers)
    rows = []
    for level in sorted(set(sweeps.requested)):
        mask = sweeps.requested == level
        got, clusters = sweeps.obtained[dial][mask], sweeps.cluster[mask]
        rows.append(
            {
                "requested": float(level) + 0.5,
                "obtained": cluster_bootstrap(mean, [got], clusters).to_dict(),
                "lower": estimate_share(abs(got - level) < 0.5, clusters).to_dict(),
                "upper": estimate_share(abs(got - level - 1) < 0.5, clusters).to_dict(),
            }
        )
    print(f"between levels: {dial}", flush=True)
    return rows


def _samples(engine: LocalEngine, plans: Mapping[str, SweepPlan]) -> list[dict[str, Any]]:
    """One question, humor asked for, at every strength of it."""
    from steerlm.generation.engine import Request, Sampling

    prompt = next(p for p in plans["humor"].prompts if len(p.messages) == 1)
    setting = {**engine.schema.defaults, "humor": 2}
    sampling = Sampling(_MAX_NEW_TOKENS, temperature=0)
    replies = []
    for strength in STRENGTHS:
        [[sample]] = engine.generate([Request(prompt.messages, setting, guidance={"humor": strength})], sampling)
        replies.append({"strength": strength, "text": sample.text})
    return [{"question": prompt.messages[-1].content, "dial": "humor", "level": 2, "replies": replies}]


def plot(results: Mapping[str, Any]) -> str:
    """Plot the dials' error, and quality, against strength, with intervals."""
    import matplotlib
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    style = {
        "svg.hashsalt": "steerlm", "svg.fonttype": "none", "font.size": 9, "axes.spines.top": False,
        "axes.spines.right": False, "axes.grid": True, "axes.axisbelow": True, "grid.linewidth": 0.6,
        "grid.color": _GRID, "axes.linewidth": 0.6,
    }  # fmt: skip
    panels = {
        "error of the dials minus that of strength 1": lambda row: row["against_ordinary"]["mean"]["mae"],
        "helpfulness while other dials turn, levels": lambda row: row["helpfulness_elsewhere"],
    }
    with matplotlib.rc_context(style):
        figure = Figure(figsize=(7.6, 3.0), layout="constrained")
        for axes, (title, pick) in zip(figure.subplots(1, 2), panels.items(), strict=True):
            for way, colour in zip(WAYS, (_INK, _OTHER), strict=True):
                rows = [pick(results["ways"][way][str(s)]) for s in results["strengths"]]
                axes.fill_between(
                    results["strengths"], [r["low"] for r in rows], [r["high"] for r in rows],
                    color=colour, alpha=0.18, linewidth=0,
                )  # fmt: skip
                label = "the dial that is turned" if way == "turned" else "all dials"
                axes.plot(results["strengths"], [r["value"] for r in rows], color=colour, marker="o", ms=4, label=label)
            axes.set_title(title, fontsize=9)
            axes.set(xlabel="strength of guidance")
        axes.legend(frameon=False, title="strength holds for", fontsize=8, title_fontsize=8)
        stream = io.StringIO()
        FigureCanvasSVG(figure).print_svg(stream, metadata={"Date": None, "Title": "Guidance against strength"})
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines()) + "\n"


def _read() -> Any:
    return json.loads((FOLDER / "guidance.json").read_text(encoding="utf-8"))


def estimate(value: Any) -> str:
    """One figure with its interval."""
    return estimate_text(from_json(Estimate, value))


def guidance_strengths(way: str) -> str:
    """Fidelity and quality at every strength."""
    results = _read()
    rows = []
    for strength in results["strengths"]:
        row = results["ways"][way][str(strength)]
        difference = row["against_ordinary"]["mean"]
        mean_of = {
            key: sum(dial[key]["value"] or 0.0 for dial in row["dials"].values()) / len(row["dials"])
            for key in ("mae", "spearman")
        }
        ordinary = strength == 1
        rows.append(
            [
                f"{strength:g}",
                f"{mean_of['mae']:.2f}",
                "" if ordinary else estimate(difference["mae"]),
                f"{mean_of['spearman']:.2f}",
                "" if ordinary else estimate(difference["spearman"]),
                estimate(row["helpfulness_at_best"]),
                estimate(row["helpfulness_elsewhere"]),
                "" if ordinary else estimate(row["helpfulness_elsewhere_change"]),
                f"{row['distinct_2']:.3f}",
                f"{100 * row['degenerate']['value']:.1f} %",
                f"{row['tokens']['value']:.0f}",
            ]
        )
    header = [
        "strength", "error, levels", "against 1", "Spearman", "against 1", "helpfulness asked at its best",
        "helpfulness while others turn", "against 1", "distinct-2", "degenerate", "tokens",
    ]  # fmt: skip
    return markdown_table(header, rows)


def guidance_dials(way: str) -> str:
    """The error of every dial at every strength, and what is obtained at its two ends."""
    results = _read()
    found = results["ways"][way]
    rows = []
    for dial in found["1.0"]["dials"]:
        errors = [estimate(found[str(s)]["dials"][dial]["mae"]) for s in results["strengths"]]
        rows.append([dial, *errors])
    return markdown_table(["error, levels", *(f"strength {s:g}" for s in results["strengths"])], rows)


def guidance_curves() -> str:
    """What each dial obtains, level by level, at three strengths."""
    results = _read()
    rows = []
    for dial in results["ways"]["turned"]["1.0"]["dials"]:
        for strength in ("0.5", "1.0", "2.0"):
            curve = results["ways"]["turned"][strength]["dials"][dial]["curve"]
            rows.append([dial, f"{float(strength):g}", *(estimate(point) for point in curve)])
    levels = [f"{point['requested']:g}" for point in results["ways"]["turned"]["1.0"]["dials"][dial]["curve"]]
    return markdown_table(["dial", "strength", *(f"asked {level}" for level in levels)], rows)


def guidance_between() -> str:
    """What requests between two levels obtain."""
    rows = []
    for dial, points in _read()["between"].items():
        for point in points:
            shares = [f"{100 * point[key]['value']:.0f} %" for key in ("lower", "upper")]
            rows.append([dial, f"{point['requested']:g}", estimate(point["obtained"]), *shares])
    return markdown_table(["dial", "asked", "obtained, mean", "at the level below", "at the level above"], rows)


def guidance_samples() -> str:
    """One question at every strength."""
    out = []
    for sample in _read()["samples"]:
        out.append(f"> **{sample['question']}**\n")
        rows = [
            [f"{reply['strength']:g}", reply["text"].replace("|", "\\|").replace("\n", " ")]
            for reply in sample["replies"]
        ]
        out.append(markdown_table([f"strength of {sample['dial']} {sample['level']}", "answer"], rows))
    return "\n".join(out)


def guidance_setup() -> str:
    """How it was measured."""
    results = _read()
    facts = results["environment"]
    return (
        f"{results['prompts']} held-out prompts, {results['answers']} answers per row of a table, temperature "
        f"{results['temperature']}, seed {results['seed']}; Python {facts['python']}, {facts['platform']}, "
        f"{facts['cpus']} CPU cores.\n"
    )


BLOCKS = {
    "guidance-strengths": guidance_strengths,
    "guidance-dials": guidance_dials,
    "guidance-curves": guidance_curves,
    "guidance-between": guidance_between,
    "guidance-samples": guidance_samples,
    "guidance-setup": guidance_setup,
}

if __name__ == "__main__":
    FOLDER.mkdir(parents=True, exist_ok=True)
    measured = measure(Path(sys.argv[1]))
    text = json.dumps(measured, indent=1, ensure_ascii=False) + "\n"
    (FOLDER / "guidance.json").write_text(text, encoding="utf-8")
    (FOLDER / "guidance.svg").write_text(plot(json.loads(text)), encoding="utf-8")

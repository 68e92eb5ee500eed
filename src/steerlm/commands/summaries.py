"""What a stage found and left out, at the end of the command that ran it: figures, counts by reason, warnings."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from steerlm.commands.terminal import console, note, say

if TYPE_CHECKING:
    from steerlm.results.findings import Finding
    from steerlm.runs import RunPaths
    from steerlm.stages.prepare.stage import LeftOut

TOO_LONG = "records longer than max_length"


def print_summary(stage: str, summary: Mapping[str, Any], out: Path) -> list[Finding]:
    """Print what a stage's summary holds; returns the signs that it learned nothing, which are printed as well."""
    found = findings_of(stage, summary, out)
    if stage == "evaluate" and "suite" not in summary:
        print_steering(out)
    elif stage == "train_attribute_model":
        _print_accuracy(summary["attributes"])
    if stage in _KEPT:
        say(_KEPT[stage](summary))
    for text in summary.get("losses", ()):
        say(text)
    for where, loss in _losses(stage, summary):
        say(f"{where}: {loss}")
    for text in (*warnings_of(stage, summary), *found):
        note("[yellow]warning[/yellow]", str(text))
    return found


def findings_of(stage: str, summary: Mapping[str, Any], out: Path) -> list[Finding]:
    """Return the signs that a stage learned nothing; those of an evaluation stand in its results."""
    from steerlm.results.evaluation import read_evaluation
    from steerlm.results.findings import findings_of_evaluation, findings_of_stage

    if stage != "evaluate" or "suite" in summary:
        return findings_of_stage(stage, summary)
    results = read_evaluation(out)
    if results is None:
        return []
    return findings_of_evaluation(results, tuned=(out.parent / "tune_guidance" / "done.json").is_file())


def warnings_of(stage: str, summary: Mapping[str, Any]) -> list[str]:
    """Return what a person should look at: the stage's own warnings, and every share left out above 1 %, but for what
    is a finding."""
    told = TOO_LONG if stage == "train_sft" else None
    grave = [f"{where}: {loss}" for where, loss in _losses(stage, summary) if loss.grave and loss.reason != told]
    return [*summary.get("warnings", ()), *grave]


def print_steering(folder: Path) -> None:
    """Print what was asked for against what came out, of an evaluation or of a run that has one."""
    from steerlm.reporting.report import group_table, steering_table
    from steerlm.reporting.terminal import print_table
    from steerlm.results.evaluation import read_evaluation

    results = read_evaluation(folder)
    rows = [] if results is None else steering_table(results)
    if rows:
        title = "requested against obtained, on held-out prompts"
        print_table(console(), title, list(rows[0]), [list(row.values()) for row in rows])
    groups = [] if results is None else group_table(results)
    if results is not None and groups:
        title = f"the same by {results.settings['by']}: Spearman"
        print_table(console(), title, list(groups[0]), [list(row.values()) for row in groups])


def print_verdict(paths: RunPaths) -> None:
    """Print every sign that a run learned nothing, with what would help, and whether its dials move."""
    from steerlm.results.evaluation import read_evaluation
    from steerlm.results.findings import findings_of_run, verdict

    found = findings_of_run(paths)
    for finding in found:
        note("[yellow]![/yellow]", str(finding))
    results = read_evaluation(paths.path)
    if results is not None and results.suite is None:
        moves, text = verdict(results, found)
        note("[green]✓[/green]" if moves else "[red]✗[/red]", text)


def _print_accuracy(attributes: Mapping[str, Mapping[str, Any]]) -> None:
    from steerlm.reporting.terminal import estimate_cell, print_table

    categorical = {name: row for name, row in attributes.items() if "accuracy" in row}
    for rows, keys, columns in (
        (
            {name: row for name, row in attributes.items() if name not in categorical},
            ("mae", "mean_baseline_mae", "spearman"),
            ("mean error", "of the mean label", "rank correlation"),
        ),
        (categorical, ("accuracy", "commonest_baseline_accuracy"), ("share right", "of the commonest category")),
    ):
        cells = [[name, str(row.get("n", 0)), *(estimate_cell(row.get(k)) for k in keys)] for name, row in rows.items()]
        if cells:
            print_table(console(), "accuracy on held-out answers", ("attribute", "held-out labels", *columns), cells)


def _losses(stage: str, summary: Mapping[str, Any]) -> Iterator[tuple[str, LeftOut]]:
    """Yield where a stage left something out, and how much; what a filter was asked to leave out is no loss."""
    from steerlm.stages.prepare.stage import LeftOut

    for where, reason, count, of in _counts(stage, summary):
        if count:
            yield where, LeftOut(reason, count, of)


def _counts(stage: str, summary: Mapping[str, Any]) -> Iterator[tuple[str, str, int, int]]:
    if stage == "annotate":
        for name, file in summary["files"].items():
            yield name, "turns longer than the attribute model's context", file["too_long"], file["turns"]
    elif stage == "train_attribute_model":
        for name in ("train", "validation"):
            part = summary[name]
            yield name, "turns longer than max_length", part["too_long"], part["turns"] + part["too_long"]
    elif stage == "train_sft":
        for name in ("train", "validation"):
            yield from _training_counts(name, summary[name])
    elif stage == "refine":
        for row in summary["rounds"]:
            where = f"round {row['round']}"
            yield where, "requests whose prompt is too long", row.get("prompts_too_long", 0), row.get("requests", 0)
            for reason, count in row.get("dropped", {}).items():
                yield where, f"answers {reason}", count, row["samples"]
            groups = row["groups"]
            yield (
                where,
                "requests with less than two answers",
                groups.get("too_few_responses", 0),
                row.get("requests", 0),
            )
    elif stage == "contrast":
        training = summary["training"]
        pairs = training["train_pairs"] + training["validation_pairs"] + training["too_long"]
        yield "pairs", "pairs longer than max_length", training["too_long"], pairs
        for name, part in summary["pairs"].items():
            yield name, "answers without labels", part["unlabelled"], part["unlabelled"] + 2 * part["prompts"]
    elif stage == "bootstrap":
        for row in summary["rounds"]:
            where = f"round {row['round']}"
            yield where, "prompts too long", row["prompts_too_long"], row["prompts"] + row["prompts_too_long"]
            for reason, count in row["dropped"].items():
                yield where, f"answers {reason}", count, row["samples"]
            if "training" in row:
                yield from _training_counts(f"{where}, training", row["training"]["train"])


def _training_counts(where: str, part: Mapping[str, Any]) -> Iterator[tuple[str, str, int, int]]:
    records = part["records"] + part["too_long"] + part["no_response"]
    yield where, TOO_LONG, part["too_long"], records
    yield where, "records without a response", part["no_response"], records
    yield where, "earlier turns of records longer than max_length", part["shortened"], records
    turns = part["trained_turns"] + part["unlabelled_turns"]
    yield where, "turns without a label", part["unlabelled_turns"], turns


def _prepared(summary: Mapping[str, Any]) -> str:
    lines = [f"{summary['train']['records']:,} records to train on, {summary['validation']['records']:,} held out"]
    return "\n".join([*lines, *_dials(summary)])


def _dials(summary: Mapping[str, Any]) -> list[str]:
    dials = summary.get("dials")
    if dials is None:
        return []
    left_out = f"levels are those of the turns that are trained on: {dials['too_long']:,} looked at are too long"
    return [
        *([left_out] if dials["too_long"] else []),
        *(f"{name}: levels begin at {', '.join(f'{cut:g}' for cut in cuts)}" for name, cuts in dials["cuts"].items()),
        *(
            f"{name}: {count:,} of {dials['turns']:,} turns looked at do not define it; they train without it"
            for name, count in dials["undefined"].items()
        ),
    ]


def _labelled(summary: Mapping[str, Any]) -> str:
    from steerlm.reporting.terminal import estimate_cell

    if "asked" not in summary:  # by measures or classifiers
        return "\n".join([_annotated(summary), *_dials(summary), *_waiting(summary)])

    lines = [
        f"{name}: {summary['rated'][name]:,} of {asked:,} turns rated by {summary['judge']}"
        for name, asked in summary["asked"].items()
    ]
    for name, found in summary["agreement"].items():
        measure = "quadratic_weighted_kappa" if "quadratic_weighted_kappa" in found else "accuracy"
        words = measure.replace("_", " ")
        lines.append(f"{name}: {found['n']:,} turns rated by people too, {words} {estimate_cell(found[measure])}")
    return "\n".join(lines)


def _waiting(summary: Mapping[str, Any]) -> Iterator[str]:
    """Yield which attributes of a file nobody has labelled yet, and which call of `steerlm label` does."""
    turns = sum(file["turns"] for file in summary["files"].values())
    for name, who in summary["waiting"].items():
        yield f"{name}: {summary['missing'][name]:,} of {turns:,} turns wait for --with {who}"


def _annotated(summary: Mapping[str, Any]) -> str:
    lines = ["; ".join(f"{name}: {file['labelled']:,} turns labelled" for name, file in summary["files"].items())]
    said = ", ".join(f"{name} by {who}" for name, who in summary.get("said_by", {}).items())
    spreads = ", ".join(f"{name} {spread:.2f}" for name, spread in summary.get("spread", {}).items() if spread)
    lines += [said] if said else []
    return "\n".join([*lines, *([f"usual distance of a score from a rating: {spreads}"] if spreads else [])])


def _trained(summary: Mapping[str, Any]) -> str:
    training = summary.get("training", summary)
    loss = training.get("validation_loss")
    if not training["steps"]:
        return f"head fitted in closed form to {summary['train']['turns']:,} rated turns"
    gains = (training.get("header_gain") or {}).get("by_dial", {})
    figures = ", ".join(f"{name} {gain['value']:.3f}" for name, gain in gains.items())
    return (
        f"{training['steps']:,} steps"
        + ("" if loss is None else f", held-out loss {loss:.4f}")
        + (f"; header_gain by dial: {figures}" if figures else "")
    )


def _bootstrapped(summary: Mapping[str, Any]) -> str:
    rounds = []
    for row in summary["rounds"]:
        text = f"{row['kept']:,} of {row['samples']:,} sampled answers kept"
        if failed := row.get("prompts_without_success"):
            text += f", {failed:,} of {row['prompts']:,} prompts had none near enough"
        rounds.append(f"{text}; {_error_text(row['held_out'])}")
    return "; ".join(rounds)


def _refined(summary: Mapping[str, Any]) -> str:
    rounds = []
    for row in summary["rounds"]:
        rounds.append(
            f"round {row['round']}: {row['groups']['train']:,} groups, {row['training']['effective_responses']:.1f} "
            f"answers of each carry the weight; KL(w||b) {row['divergence_before']:.3f} -> "
            f"{row['training']['validation_loss']:.3f}; {_error_text(row['held_out'])}"
        )
    return "\n".join(rounds)


def _contrasted(summary: Mapping[str, Any]) -> str:
    pairs = summary["pairs"]["train"]
    before, after = (100 * summary["own_header"][when]["value"] for when in ("before", "after"))
    return (
        f"{pairs['goals']:,} pairs of {pairs['prompts']:,} prompts; answers likelier behind their own headers "
        f"{before:.1f} % -> {after:.1f} %; {_error_text(summary['held_out'])}"
    )


def _reinforced(summary: Mapping[str, Any]) -> str:
    training = summary["training"]
    first, last = training["first_rewards"], training["last_rewards"]
    moved = ", ".join(f"{name} {first[name]:.2f} -> {last[name]:.2f}" for name in first if first[name] is not None)
    return f"{training['steps']:,} steps; rewards: {moved}; {_error_text(summary['held_out'])}"


def _guided(summary: Mapping[str, Any]) -> str:
    def figure(value: float | None) -> str:
        return "-" if value is None else f"{value:.2f}"

    tried = ", ".join(f"{strength:g}" for strength in summary["tried"])
    lines = [f"error in levels on {summary['prompts']} prompts at strength {tried}:"]
    for name, errors in summary["errors"].items():
        lines.append(f"{name}: {'  '.join(map(figure, errors))}; taken: {summary['strengths'][name]:g}")
    return "\n".join(lines)


def _error_text(held_out: Mapping[str, Any]) -> str:
    before, after = (held_out["error"]["mean"][when]["value"] for when in ("before", "after"))
    if before is None or after is None:
        return "no held-out answer could be scored"
    return f"error of the dials {before:.3f} -> {after:.3f} levels on held-out prompts, by its own scorer"


def _paired(summary: Mapping[str, Any]) -> str:
    kinds = ", ".join(f"{count:,} {how}" for how, count in summary["kinds"].items())
    moved = ", ".join(f"{number}: {count:,}" for number, count in summary["moved"].items())
    together = "; ".join(f"{names} {share:.0%}" for names, share in summary["same_way"].items())
    return (
        f"{summary['pairs']:,} pairs of {summary['texts']:,} texts ({kinds}); attributes that move, by number: {moved}"
        + (f"; the same way where both move: {together}" if together else "")
    )


_KEPT = {
    "prepare": _prepared,
    "label": _labelled,
    "annotate": _annotated,
    "train_attribute_model": _trained,
    "train_sft": _trained,
    "bootstrap": _bootstrapped,
    "refine": _refined,
    "contrast": _contrasted,
    "reinforce": _reinforced,
    "tune_guidance": _guided,
    "pairs": _paired,
}

"""Alignment baselines beside SteerLM, at equal data and equal tokens.

    steerlm baselines RECIPE

SteerLM's own steps (fine-tuning and, where the recipe has it, bootstrapping) set the budget: all tokens that go through
the model in training, and all that it samples. Plain SFT and SFT on the best samples spend it on training; DPO and
RLOO (through TRL) spend a share on plain SFT and the rest on their own. All see the same records, labels and attribute
model, answer the same held-out prompts and are measured in the same way.

    OUT is the folder of `steerlm ablate`: what that has done (data, attribute model, SteerLM itself) is used again
    OUT/seed-N/baselines/<method>/   OUT/baselines.json  baselines.md
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.config import BaselinesConfig, Recipe, TrainSftConfig
from steerlm.errors import UserError, needs_extra
from steerlm.reporting.studies import baselines_table, explain_baselines
from steerlm.results.codec import VERSION, from_json, read_result, to_json, write_result
from steerlm.results.studies import (
    BaselinesResult,
    MethodCourse,
    MethodDone,
    MethodResult,
    MethodTraining,
    RungCourse,
    TrialCourse,
)
from steerlm.runs import Notify, RunFolder
from steerlm.scorers.labelling import open_labels
from steerlm.stages.evaluate.sweeping import read_prompts
from steerlm.storage.files import write_text
from steerlm.storage.spending import spending
from steerlm.studies.ablate.measuring import Questions, measure_model, read_answers, read_questions, without_labels
from steerlm.studies.ablate.rungs import RUNGS, parent, quality_names
from steerlm.studies.ablate.statistics import Answers, Judged, describe, gain
from steerlm.studies.ablate.study import (
    Climb,
    climb_rungs,
    conditions_of,
    draws_of,
    possible_rungs,
    prepare_shared,
    seed_run,
    shared_run,
    subject_of,
)
from steerlm.studies.baselines.encoding import encode_pair, plain_encoder, plain_tokens
from steerlm.studies.baselines.reward import mean_reward, reward_of

METHODS = {
    "steerlm": "attribute-conditioned SFT, then bootstrapping",
    "plain": "SFT without attributes on all records",
    "best": "SFT without attributes on the best tenth of the records (by the attribute model)",
    "dpo": "plain SFT, then DPO on pairs that the attribute model ordered",
    "rloo": "plain SFT, then RLOO with the attribute model as reward",
    "grpo": "attribute-conditioned SFT, then GRPO with one reward per attribute and requests from the whole range",
}
STEERABLE = ("steerlm", "grpo")
"""Those whose models hear a request."""
_SAMPLES = 4
"""Answers per prompt: enough to see whether a method always says the same."""
_VALIDATION_PROMPTS = 64
BEST_SHARES = (0.25, 1.0)
"""Shares of the budget that SFT on the best records tries."""


@dataclass(frozen=True)
class Setup:
    """What all methods of one seed share.

    Attributes:
        climb: the ladder's folder and questions of this seed; SteerLM's rungs are done.
        run: the folder of this seed's baselines; its recipe has the section `baselines`.
        reward_names: the attributes that count: all with a best end.
        questions: as the ladder's, with the setting that is best for those attributes.
        budget: tokens of SteerLM.
    """

    climb: Climb
    run: RunFolder
    config: BaselinesConfig
    reward_names: tuple[str, ...]
    questions: Questions
    budget: int

    @property
    def seed(self) -> int:
        return self.climb.seed

    @property
    def schema(self) -> AttributeSchema:
        return self.climb.schema

    @property
    def sft(self) -> TrainSftConfig:
        return self.run.recipe.train_sft

    @property
    def attribute_model(self) -> Path:
        return self.climb.run.paths.attribute_model

    @property
    def max_new_tokens(self) -> int:
        bootstrap = self.run.recipe.bootstrap
        return self.run.recipe.evaluate.max_new_tokens if bootstrap is None else bootstrap.max_new_tokens

    def annotated(self, name: str) -> Path:
        return self.climb.run.stage("annotate") / f"{name}.jsonl"


def baselines(recipe: Recipe, num_seeds: int, out: Path, notify: Notify) -> BaselinesResult:
    """Train and measure every method with several seeds.

    Args:
        recipe: its run folder must be `out/shared`; its seed is the first one.
        out: see the module's docstring. Called again after an interruption it goes on behind the last method done.
    """
    rewarded = rewarded_names(recipe, out)
    shared = shared_run(recipe, out)
    config = recipe.baselines or BaselinesConfig()
    shared.open()
    prepared = prepare_shared(shared, notify)
    names = ("predicted", "more") if recipe.bootstrap is None else ("predicted", "more", "bootstrap")
    rungs, _ = possible_rungs(tuple(rung for rung in RUNGS if rung.name in names), prepared, recipe)
    start = parent(rungs)
    rungs = tuple(rung for rung in rungs if rung.name in (start.name, "bootstrap"))
    prompts = recipe.evaluate.prompts or prepared / "validation.jsonl"
    schema = shared.schema
    asked = [
        read_questions(recipe.evaluate, prompts, schema, quality, recipe.seed)
        for quality in (quality_names(recipe), rewarded)
    ]
    done: dict[int, dict[str, MethodDone]] = {}
    for seed in range(recipe.seed, recipe.seed + num_seeds):
        run = seed_run(shared.recipe, out, seed)
        climb = Climb(run, schema, prepared, rungs, asked[0], quality_names(recipe), notify)
        spent = [_course(record.done.training) for record in climb_rungs(climb).values()]
        mine = RunFolder(recipe.model_copy(update={"run_dir": run.path / "baselines", "seed": seed}))
        mine.open()
        budget = sum(row.spent_tokens + row.sampled_tokens for row in spent)
        done[seed] = _methods(Setup(climb, mine, config, rewarded, asked[1], budget), spent, notify)
    results = _results(recipe, schema, config, rewarded, asked[1], done, out)
    write_result(out / "baselines.json", results)
    text = f"# Baselines: {recipe.name}\n\n{baselines_table(results)}\n{explain_baselines(results)}"
    write_text(out / "baselines.md", text)
    return results


def rewarded_names(recipe: Recipe, out: Path) -> tuple[str, ...]:
    """Return the attributes by which `baselines` is to reward: all with a best end.

    Raises:
        UserError: it can reward by none, by the recipe, the folder, or for want of a package.
    """
    with needs_extra("baselines", "steerlm baselines"):
        import trl  # noqa: F401
    rewarded = tuple(a.name for a in recipe.schema_.ordinal if a.best is not None)
    if not rewarded:
        raise UserError("no attribute of the recipe has a best end, so there is nothing to reward; set `best`")
    if recipe.train_attribute_model is None or recipe.schema_.learned is None:
        raise UserError(
            "steerlm baselines rewards by an attribute model: the recipe needs a section train_attribute_model, and an "
            "attribute that nothing measures"
        )
    shared_run(recipe, out).check()
    return rewarded


def _methods(setup: Setup, steerlm: Sequence[MethodCourse], notify: Notify) -> dict[str, MethodDone]:
    parts: dict[str, Callable[[Path], MethodDone]] = {
        "sft": lambda out: MethodDone(_sft(setup, out, setup.config.sft_share * setup.budget)),
        "steerlm": lambda out: _measured(setup, out, _steerlm_model(setup), _total(steerlm)),
        "plain": lambda out: _measured(setup, out, out / "train" / "model", _sft(setup, out, setup.budget)),
        "best": lambda out: _best(setup, out),
        "dpo": lambda out: _tuned(setup, out, _dpo, setup.config.dpo_learning_rates),
        "rloo": lambda out: _tuned(setup, out, _rloo, setup.config.rloo_learning_rates),
        "grpo": lambda out: _grpo(setup, out),
    }
    done = {}
    for name, part in parts.items():
        work = functools.partial(_as_json, part)
        record = setup.run.execute(name, work, notify, f"seed {setup.seed}: baseline {name}")
        done[name] = from_json(MethodDone, record["summary"])
    return done


def _as_json(part: Callable[[Path], MethodDone], out: Path) -> Mapping[str, object]:
    done: Mapping[str, object] = to_json(part(out))
    return done


def _steerlm_model(setup: Setup) -> Path:
    last = setup.climb.rungs[-1]
    return setup.climb.run.stage(last.name) / ("bootstrap" if last.name == "bootstrap" else "train") / "model"


def _course(rung: RungCourse) -> MethodCourse:
    return MethodCourse(
        records=rung.records,
        steps=rung.steps,
        spent_tokens=rung.spent_tokens,
        sampled_tokens=rung.sampled_tokens,
        seconds=rung.seconds,
        peak_memory_mib=rung.peak_memory_mib,
    )


def _total(parts: Sequence[MethodCourse]) -> MethodCourse:
    """Add up what the parts of a method spent."""
    return MethodCourse(
        records=parts[0].records,
        steps=sum(part.steps for part in parts),
        spent_tokens=sum(part.spent_tokens for part in parts),
        sampled_tokens=sum(part.sampled_tokens for part in parts),
        seconds=round(sum(part.seconds for part in parts), 2),
        peak_memory_mib=max((p.peak_memory_mib for p in parts if p.peak_memory_mib is not None), default=None),
    )


def _measured(setup: Setup, out: Path, model: Path, training: MethodCourse) -> MethodDone:
    config = setup.run.recipe.evaluate
    config = config.model_copy(update={"samples_per_prompt": max(_SAMPLES, config.samples_per_prompt)})
    measured = measure_model(config, model, setup.questions, setup.schema, setup.attribute_model, out, setup.seed)
    return MethodDone(training, measured)


def _best(setup: Setup, out: Path) -> MethodDone:
    """Fine-tune on the best records, for shares of the budget: all of it repeats few records very often."""
    from steerlm.studies.baselines.preferences import write_best

    files = {}
    for name in ("train", "validation"):
        files[name] = out / "data" / f"{name}.jsonl"
        if not write_best(setup.annotated(name), files[name], setup.schema, setup.reward_names):
            raise UserError(f"{setup.annotated(name)} holds no scores to choose the best records by")
    trials = []
    for share in BEST_SHARES:
        folder = out / f"share-{share:g}"
        training = _sft(setup, folder, share * setup.budget, files)
        liked = _validation_reward(setup, folder / "train" / "model")
        trials.append(dataclasses.replace(training, share=share, validation_reward=liked))
    best = max(trials, key=lambda trial: trial.validation_reward or 0.0)
    model = out / f"share-{best.share:g}" / "train" / "model"
    return _measured(setup, out, model, dataclasses.replace(best, trials=to_json(trials)))


def _sft(
    setup: Setup, out: Path, tokens: float, data: Mapping[str, Path] | None = None, conditioning: bool = False
) -> MethodCourse:
    """Fine-tune the base model until `tokens` have gone through it, headers not counted beforehand."""
    from steerlm.stages.train_sft import train_sft

    recipe = setup.run.recipe
    files = data or {name: setup.annotated(name) for name in ("train", "validation")}
    config = setup.sft.model_copy(update={"conditioning": conditioning, "max_steps": -1})
    epochs = tokens / plain_tokens(setup.sft, files["train"], setup.schema)
    with spending() as cost:
        summary = train_sft(
            config.model_copy(update={"epochs": epochs}),
            files["train"],
            files["validation"],
            setup.schema,
            out / "train",
            setup.seed,
            recipe.prepare.sources,
        )
    return MethodCourse(
        records=summary["train"]["records"],
        steps=summary["steps"],
        best_step=summary["best_step"],
        epochs=summary["epochs"],
        spent_tokens=round(summary["train"]["tokens"] * summary["epochs"]),
        sampled_tokens=0,
        seconds=cost.seconds,
        peak_memory_mib=cost.peak_memory_mib,
    )


Tune = Callable[[Setup, Path, Path, float, int], TrialCourse]
"""`tune(setup, policy, out, learning_rate, budget)` writes `out/model`."""


def _tuned(setup: Setup, out: Path, tune: Tune, learning_rates: Sequence[float]) -> MethodDone:
    """Tune the plain SFT model with every learning rate and keep the one whose answers the attribute model likes best.

    The other rates' tokens are not counted: that favours the baselines.
    """
    record = setup.run.done("sft")
    assert record is not None
    first = from_json(MethodDone, record["summary"]).training
    policy = setup.run.stage("sft") / "train" / "model"
    budget = max(1, setup.budget - first.spent_tokens)
    trials = [_trial(setup, tune, policy, out / f"rate-{rate:g}", rate, budget) for rate in learning_rates]
    if len(trials) > 1:
        models = [out / f"rate-{trial.learning_rate:g}" / "model" for trial in trials]
        trials = [
            dataclasses.replace(trial, validation_reward=_validation_reward(setup, model))
            for trial, model in zip(trials, models, strict=True)
        ]
    best = max(trials, key=lambda trial: trial.validation_reward or 0.0)
    return _measured(setup, out, out / f"rate-{best.learning_rate:g}" / "model", _both(first, best, trials))


def _both(first: MethodCourse, best: TrialCourse, trials: Sequence[TrialCourse]) -> MethodCourse:
    """Return what fine-tuning and the best trial took together."""
    second = MethodCourse(
        records=first.records,
        steps=best.steps,
        spent_tokens=best.trained_tokens,
        sampled_tokens=best.sampled_tokens,
        seconds=best.seconds,
        peak_memory_mib=best.peak_memory_mib,
    )
    return dataclasses.replace(_total([first, second]), learning_rate=best.learning_rate, trials=to_json(trials))


def _grpo(setup: Setup, out: Path) -> MethodDone:
    """Fine-tune with attributes, then reinforce all dials; the rate with the best rewards at its end is kept."""
    from steerlm.studies.baselines.steerable import train_steerable

    course = out / "sft" / "course.json"
    if not course.is_file():
        write_result(course, _sft(setup, out / "sft", setup.config.sft_share * setup.budget, conditioning=True))
    first = read_result(MethodCourse, course)

    def tune(setup: Setup, policy: Path, out: Path, rate: float, budget: int) -> TrialCourse:
        return train_steerable(
            policy,
            setup.attribute_model,
            setup.annotated("train"),
            setup.schema,
            setup.config,
            setup.sft,
            setup.max_new_tokens,
            rate,
            out,
            budget,
            setup.seed,
        )

    policy, budget = out / "sft" / "train" / "model", max(1, setup.budget - first.spent_tokens)
    rates = setup.config.grpo_learning_rates
    trials = [_trial(setup, tune, policy, out / f"rate-{rate:g}", rate, budget) for rate in rates]
    best = max(trials, key=lambda trial: -1.0 if trial.last_reward is None else trial.last_reward)
    return _measured(setup, out, out / f"rate-{best.learning_rate:g}" / "model", _both(first, best, trials))


def _trial(setup: Setup, tune: Tune, policy: Path, folder: Path, rate: float, budget: int) -> TrialCourse:
    """Tune with one learning rate; a trial that is done is not done again."""
    record = folder / "trial.json"
    if not record.is_file():
        with spending() as cost:
            course = tune(setup, policy, folder, rate, budget)
        course = dataclasses.replace(course, seconds=cost.seconds)
        write_result(record, dataclasses.replace(course, peak_memory_mib=cost.peak_memory_mib))
    return read_result(TrialCourse, record)


def _dpo(setup: Setup, policy: Path, out: Path, rate: float, budget: int) -> TrialCourse:
    from steerlm.studies.baselines.preferences import read_pairs
    from steerlm.studies.baselines.trainers import train_dpo

    pairs = read_pairs(setup.annotated("train"), setup.schema, setup.reward_names)
    encoder = plain_encoder(policy, setup.sft, setup.schema)
    encoded = [row for pair in pairs if (row := encode_pair(encoder, pair, setup.sft.max_length)) is not None]
    if not encoded:
        raise UserError(
            f"{setup.annotated('train')} holds no prompt with two answers of different quality: DPO has nothing to "
            "learn from; the data need several answers per prompt"
        )
    course = train_dpo(policy, encoded, setup.config, setup.sft, rate, out, budget, setup.seed)
    return dataclasses.replace(course, pairs=len(encoded))


def _rloo(setup: Setup, policy: Path, out: Path, rate: float, budget: int) -> TrialCourse:
    from steerlm.studies.baselines.trainers import train_rloo

    encoder = plain_encoder(policy, setup.sft, setup.schema)
    room = setup.sft.max_length - setup.max_new_tokens
    prompts = []
    for prompt in read_prompts(setup.annotated("train"), setup.schema, None, setup.seed):
        messages = without_labels(prompt.messages)
        ids = encoder.prompt(messages, {})
        if len(ids) <= room:
            prompts.append((messages, ids))
    if not prompts:
        raise UserError(
            f"no prompt of {setup.annotated('train')} leaves room for an answer; raise train_sft.max_length"
        )
    course = train_rloo(
        policy,
        prompts,
        reward_of(open_labels(setup.schema, setup.attribute_model), setup.reward_names),
        encoder.decode,
        setup.config,
        setup.sft,
        setup.max_new_tokens,
        rate,
        out,
        budget,
        setup.seed,
    )
    return dataclasses.replace(course, prompts=len(prompts))


def _validation_reward(setup: Setup, model: Path) -> float:
    """Return the mean reward of a plain model's answers to validation prompts (not the held-out ones)."""
    evaluate = setup.run.recipe.evaluate
    prompts = read_prompts(setup.annotated("validation"), setup.schema, _VALIDATION_PROMPTS, setup.seed)
    reward = reward_of(open_labels(setup.schema, setup.attribute_model), setup.reward_names)
    return mean_reward(model, prompts, reward, setup.max_new_tokens, evaluate.temperature, evaluate.batch_size)


def _results(
    recipe: Recipe,
    schema: AttributeSchema,
    config: BaselinesConfig,
    rewarded: tuple[str, ...],
    questions: Questions,
    done: Mapping[int, Mapping[str, MethodDone]],
    out: Path,
) -> BaselinesResult:
    """Put the figures of all methods and seeds together."""
    measured = next(iter(done.values()))["steerlm"].measured
    assert measured is not None
    conditions = conditions_of(recipe, measured)
    judged = Judged(schema, conditions.headline, rewarded)
    by_annotator = {a.name: "annotator" if a.learned else conditions.headline[a.name] for a in schema}
    annotator = Judged(schema, by_annotator, rewarded)
    answers: dict[str, Answers] = {
        name: {seed: read_answers(out / f"seed-{seed}" / "baselines" / name) for seed in done} for name in METHODS
    }
    return BaselinesResult(
        version=VERSION,
        subject=subject_of(recipe, schema, questions, rewarded, list(done)),
        samples_per_prompt=max(_SAMPLES, recipe.evaluate.samples_per_prompt),
        settings=draws_of(recipe),
        baselines=config.model_dump(mode="json"),
        conditions=conditions,
        methods={
            name: MethodResult(
                what=what,
                steerable=name in STEERABLE,
                training=[MethodTraining(seed=seed, course=methods[name].training) for seed, methods in done.items()],
                figures=describe(answers[name], judged),
                by_annotator=describe(answers[name], annotator).quality,
                minus_steerlm=None if name == "steerlm" else gain(answers["steerlm"], answers[name], judged),
            )
            for name, what in METHODS.items()
        },
    )

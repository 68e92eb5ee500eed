"""What can be validated before anything is computed (data, prompts, models), and how much data there is."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.models import context_length
from steerlm.config import PlaygroundConfig, Recipe, SourceConfig, TrainingSection, TrainSftConfig, files_of
from steerlm.conversation import Conversation
from steerlm.errors import UserError
from steerlm.planning.architectures import Architecture, architecture, known
from steerlm.planning.findings import Findings
from steerlm.planning.rated import check_rated
from steerlm.results.findings import Finding, collapsed
from steerlm.runs import recipe_stages
from steerlm.scorers.classifiers import ClassifierScorer
from steerlm.scorers.dials import check_dials, fit_dials
from steerlm.scorers.llm.protocols import rubric_asks
from steerlm.sources import read_source
from steerlm.sources.prompts import read_prompts
from steerlm.sources.rows import BadRecords
from steerlm.stages.evaluate.suites import make_suite
from steerlm.stages.label import check_judge, cost_line, judge_client, judged_attributes
from steerlm.stages.prepare.stage import inspect_source

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SAMPLE = 256
_ENOUGH_TURNS = 200
"""Turns on which a measure that never changes is one that a dial cannot be learned from."""
_CHARACTERS_PER_TOKEN = 4.0
_FEWEST_LABELS = 20
_RECORD_TOKENS, _RESPONSE_SHARE = 300.0, 1 / 3
"""Of a chat record, where the data cannot be looked at."""


@dataclass(frozen=True)
class DataSize:
    """Estimated size of the training data.

    Attributes:
        records: how many.
        tokens_per_record: their mean length.
        length: mean length of the record a token stands in (long records hold more of the tokens).
        response_share: share of the tokens that are responses.
        samples: the first records of every source.
    """

    records: int
    tokens_per_record: float
    length: float
    response_share: float
    samples: tuple[Conversation, ...] = ()

    @property
    def tokens(self) -> int:
        """Tokens of one pass."""
        return round(self.records * self.tokens_per_record)


def assumed_data(tokens: int) -> DataSize:
    """Return data of so many tokens that are like chats."""
    return DataSize(max(1, round(tokens / _RECORD_TOKENS)), _RECORD_TOKENS, 1.5 * _RECORD_TOKENS, _RESPONSE_SHARE)


def inspect_data(recipe: Recipe, schema: AttributeSchema, found: Findings) -> DataSize | None:
    """Read all local sources as `prepare` would; None where the size stays unknown."""
    if recipe.playground is not None:
        world = recipe.playground
        found.notes.append("the playground's data do not exist yet: their size is taken from the recipe")
        return DataSize(world.num_prompts * world.responses_per_prompt, 80.0, 90.0, 0.5)
    records, tokens, known_size = 0, 0.0, True
    samples: list[Conversation] = []
    readable: list[SourceConfig] = []
    for source in recipe.prepare.sources:
        if source.hub is not None and not Path(source.hub).exists():
            found.notes.append(
                f"{source.name}: {source.hub} is on the hub and is not read here; say how many tokens one pass has: "
                "steerlm plan RECIPE --tokens N"
            )
            known_size = False
            continue
        bad = BadRecords() if recipe.prepare.skip_bad_records else None
        seen = inspect_source(source, schema)
        if seen.first_error and (bad is None or not seen.complete):
            found.problems.append(seen.first_error)
            continue
        if seen.bad:
            found.notes.append(f"{source.name}: {seen.bad} bad record(s) would be skipped, first: {seen.first_error}")
        sample = list(itertools.islice(read_source(source, schema, bad), _SAMPLE)) if seen.records else []
        records += seen.records
        tokens += seen.characters / _CHARACTERS_PER_TOKEN
        samples += sample
        readable.append(source)
        _check_turns(source.name, sample, found)
    if samples:
        check_rated(recipe, samples, readable, found)
        _check_dials(schema, samples, len(samples) == records, found)
        if judged_attributes(schema):
            _check_judge(recipe, samples, found)
    return _measured(records, tokens, samples) if records and known_size else None


def _check_dials(schema: AttributeSchema, samples: list[Conversation], whole: bool, found: Findings) -> None:
    """Try the measures and classifiers on the first records; what only more data can show is a note."""
    try:
        check_dials(schema)
    except UserError as error:
        found.problems.append(str(error))
        return
    turns = [one.messages[: turn + 1] for one in samples for turn in one.assistant_turns]
    measured = AttributeSchema(tuple(a for a in schema if a.measure)) if any(a.measure for a in schema) else None
    for attribute in measured or ():
        try:
            fitted, undefined = fit_dials(AttributeSchema((attribute,)), turns)
        except UserError as error:
            (found.problems if whole or len(turns) >= _ENOUGH_TURNS else found.notes).append(str(error))
            continue
        cuts = fitted[attribute.name].cuts
        if missing := undefined[attribute.name]:
            found.notes.append(
                f"attribute {attribute.name!r}: {missing} of the first {len(turns)} turns do not define "
                f"{attribute.measure}; they train without it"
            )
        if cuts and not attribute.cuts:
            shown = ", ".join(f"{cut:g}" for cut in cuts)
            found.notes.append(f"attribute {attribute.name!r}: levels of {attribute.measure} are cut near {shown}")


def _measured(records: int, tokens: float, samples: list[Conversation]) -> DataSize:
    lengths = [sum(len(message.content) for message in one.messages) for one in samples]
    answers = sum(len(one.messages[turn].content) for one in samples for turn in one.assistant_turns)
    whole = max(sum(lengths), 1)
    length = sum(n * n for n in lengths) / whole / _CHARACTERS_PER_TOKEN
    return DataSize(records, tokens / records, length, answers / whole, tuple(samples))


def _check_turns(source: str, sample: list[Conversation], found: Findings) -> None:
    if not any(conversation.assistant_turns for conversation in sample):
        found.problems.append(f"{source}: none of the first {len(sample)} records has an assistant turn to train on")


def _check_judge(recipe: Recipe, samples: Sequence[Conversation], found: Findings) -> None:
    """Ask whether the judge's endpoint is up, and say what its ratings will cost about."""
    try:
        check_judge(recipe.label, recipe.run_dir / "judge")
    except UserError as error:
        found.problems.append(str(error))
        return
    turns = [one.messages[: turn + 1] for one in samples for turn in one.assistant_turns]
    client = judge_client(recipe.label, recipe.run_dir / "judge")
    for attribute in judged_attributes(recipe.schema_):
        assert attribute.judge is not None
        asks = rubric_asks("", {str(i): turn for i, turn in enumerate(turns)}, AttributeSchema((attribute,)))
        cost = client.estimate([ask.prompt for ask in asks])
        wanted = attribute.judge.ratings
        share = wanted / max(1, cost.requests)
        scaled = cost._replace(
            requests=wanted,
            stored=0,
            prompt_tokens=round(cost.prompt_tokens * share),
            max_completion_tokens=round(cost.max_completion_tokens * share),
        )
        found.notes.append(f"attribute {attribute.name!r}: {cost_line(scaled, recipe.label)}")


def check_prompts(path: Path, found: Findings) -> None:
    """Check the file of evaluation prompts."""
    try:
        count = sum(1 for _ in read_prompts(path))
    except UserError as error:
        found.problems.append(str(error))
        return
    if count < 2:
        found.problems.append(f"{path} holds {count} prompts; evaluation needs at least 2")


def check_files(recipe: Recipe, found: Findings) -> None:
    """Check that the files are there which stages read that come late; data and scorers have checks of their own."""
    stages = [stage for stage in recipe_stages(recipe) if stage != "evaluate"]
    for key, path in files_of(recipe, stages):
        if not key.startswith("prepare.sources") and not path.exists():
            found.problems.append(f"{key}: no such file or folder: {path}")


def check_scorers(recipe: Recipe, found: Findings) -> None:
    """Check the evaluation's models and the prompts of its suites, which are read last of all."""
    from steerlm.checkpoint.models import load_info

    config = recipe.evaluate
    for path in config.attribute_models:
        if not made_by_run(recipe, path):
            try:
                load_info(path)
            except UserError as error:
                found.problems.append(f"evaluate.attribute_models: {error}")
    for classifier in config.classifiers:
        if not made_by_run(recipe, Path(classifier.model)):
            try:
                ClassifierScorer(classifier, recipe.schema_)
            except UserError as error:
                found.problems.append(f"evaluate.classifiers: {error}")
    for name in config.suites:
        asked = config.toxicity_prompts if name == "toxicity" else None
        try:
            make_suite(name, recipe.schema_, asked, config.suite_prompts, recipe.seed)
        except UserError as error:
            found.problems.append(f"evaluate.suites: {error}")


def made_by_run(recipe: Recipe, path: Path) -> bool:
    """Return whether the run itself makes a file."""
    return recipe.run_dir in path.parents


class BaseModelLook(NamedTuple):
    """What can be known here of a base model.

    Attributes:
        shape: its architecture; None where it is not on this machine.
        context: most tokens that it takes; None where that is unknown, or without a limit.
    """

    shape: Architecture | None
    context: int | None


def check_model(stage: str, section: TrainingSection, recipe: Recipe, found: Findings) -> BaseModelLook:
    """Read the model's configuration (and tokenizer where it is on this machine), and say where the run takes less."""
    if recipe.playground is not None and made_by_run(recipe, Path(section.base_model)):
        from steerlm.playground.pretrain import CONTEXT

        look = BaseModelLook(playground_shape(recipe.playground), CONTEXT)
    else:
        look = _look_at_base(stage, section, recipe, found)
    if look.context is not None and section.max_length > look.context:
        found.notes.append(
            f"{stage}.max_length {section.max_length} is above the model's context of {look.context}: "
            f"the run takes {look.context}"
        )
    return look


def _look_at_base(stage: str, section: TrainingSection, recipe: Recipe, found: Findings) -> BaseModelLook:
    from transformers import AutoConfig

    name = section.base_model
    local = Path(name).exists()
    config = None if local else known(name)
    if config is None:
        try:
            # The cache only: a plan does not wait for a network.
            config = AutoConfig.from_pretrained(name, local_files_only=True, trust_remote_code=False)
        except (OSError, ValueError) as error:
            if local:
                found.problems.append(f"{stage}.base_model {name}: {str(error).splitlines()[0]}")
            elif name.startswith((".", "/")) or name.count("/") != 1:
                found.problems.append(f"{stage}.base_model {name}: no such folder")
            else:
                found.notes.append(
                    f"{stage}.base_model {name} is not on this machine and is left out of the estimate; fetch its "
                    f"description with: hf download {name} config.json, or name a folder with its config.json: "
                    f"--set {stage}.base_model=FOLDER"
                )
            return BaseModelLook(None, None)
    tokenizer = None
    if local and (Path(name) / "tokenizer_config.json").is_file():
        tokenizer = _check_tokenizer(stage, section, recipe, found)
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    return BaseModelLook(architecture(config), positions if tokenizer is None else context_length(config, tokenizer))


def check_answers(recipe: Recipe, context: int | None, found: Findings) -> None:
    """Say where answers are asked for that the model's context has no room for.

    Args:
        context: most tokens that the model takes; None where that is unknown.
    """
    sections = ("bootstrap", "refine", "contrast", "reinforce", "evaluate")
    asked = {name: getattr(recipe, name).max_new_tokens for name in sections if getattr(recipe, name) is not None}
    trained = min(recipe.train_sft.max_length, context or recipe.train_sft.max_length)
    if asked.get("reinforce", 0) >= trained:
        found.problems.append(
            f"reinforce.max_new_tokens {asked.pop('reinforce')} leaves no room for a prompt within {trained} tokens "
            "(train_sft.max_length and the model's context); lower it"
        )
    found.notes += [
        f"{name}.max_new_tokens {most} is all of the model's context of {context} or more: answers end where their "
        "prompt leaves no room"
        for name, most in asked.items()
        if context is not None and most >= context
    ]


@dataclass(frozen=True)
class SampledLengths:
    """Tokens of the records looked at, in a model's own tokens.

    Attributes:
        records: their tokens.
        too_long: of those whose last exchange does not fit.
        most: tokens that fit.
    """

    records: tuple[int, ...]
    too_long: tuple[int, ...]
    most: int


def sampled_lengths(
    section: TrainingSection, recipe: Recipe, data: DataSize, context: int | None
) -> SampledLengths | None:
    """Encode the records looked at; None where the tokenizer is not on this machine."""
    if not data.samples or not (Path(section.base_model) / "tokenizer_config.json").is_file():
        return None
    from steerlm.training.base_encoder import open_encoder

    encoder = open_encoder(section, recipe.schema_).encoder
    most = min(section.max_length, context or section.max_length)
    headers = isinstance(section, TrainSftConfig)  # an attribute model reads none
    replies = [one.messages[: one.assistant_turns[-1] + 1] for one in data.samples if one.assistant_turns]
    lengths = [len(encoder.conversation(messages, headers=headers).input_ids) for messages in replies]
    unfit = [
        length
        for messages, length in zip(replies, lengths, strict=True)
        if length > most and encoder.fit(messages, most, headers=headers) is None
    ]
    return SampledLengths(tuple(lengths), tuple(unfit), most)


def check_labels(data: DataSize) -> Iterator[Finding]:
    """Say which attributes the ratings looked at leave on one level."""
    histograms: dict[str, Counter[str]] = defaultdict(Counter)
    for one in data.samples:
        for turn in one.assistant_turns:
            for name, value in one.messages[turn].human_labels.items():
                histograms[name][str(value)] += 1
    many = {name: histogram for name, histogram in histograms.items() if histogram.total() >= _FEWEST_LABELS}
    yield from collapsed("prepare", many)


def _check_tokenizer(
    stage: str, section: TrainingSection, recipe: Recipe, found: Findings
) -> PreTrainedTokenizerBase | None:
    """Try the tokenizer and return it; None where it cannot be used."""
    from steerlm.conversation import Message
    from steerlm.training.base_encoder import open_encoder

    try:
        tokenizer, _, encoder = open_encoder(section, recipe.schema_)
        encoder.conversation([Message("user", "ping"), Message("assistant", "pong", recipe.schema_.defaults)])
    except UserError as error:
        found.problems.append(f"{stage}: {error}")
        return None
    return tokenizer


def playground_shape(world: PlaygroundConfig) -> Architecture:
    """Return the shape of the base model that a playground pretrains."""
    width, inner = world.hidden_size, world.intermediate_size
    return Architecture(
        layers=world.num_layers,
        hidden=width,
        intermediate=inner,
        query=width,
        key_value=width,
        heads=world.num_heads,
        vocab=world.vocab_size,
        body=world.num_layers * (4 * width * width + 3 * width * inner),
        tied=False,
        gated=True,
    )

"""Look at data and a model, and write a first recipe that fits both."""

from __future__ import annotations

import argparse
import dataclasses
import re
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, named_models, options, terminal
from steerlm.errors import UserError, did_you_mean, shell_word

if TYPE_CHECKING:
    from steerlm.attributes import Attribute, AttributeSchema
    from steerlm.config import Recipe, SourceConfig
    from steerlm.planning.choosing import InitSetting
    from steerlm.planning.looking import DataLook, ModelLook
    from steerlm.sources.guessing import SourceGuess

_LABELLED = 0.95
"""Share of rated responses from which people's labels are trained on as they are."""
_GRAVE, _FEWEST = 0.05, 100
"""Share of rows that cannot be read, and number of conversations, from which one is warned."""
_LONG_S = 3600
_ENCODER = "sentence-transformers/all-MiniLM-L6-v2"
_EPILOG = """\
examples:
  steerlm init dialogue.csv --base google/gemma-3-270m
  steerlm init dialogue.csv --base google/gemma-3-270m --attributes length=measure:words,grumpiness=judge
  steerlm init chats.parquet --base ./model --columns prompt=player,response=reply,system=npc,rating.humor=funny
"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument(
        "data", metavar="DATA", help="CSV, TSV, JSON, JSONL or parquet file, a folder of them, or a hub id"
    )
    parser.add_argument("--base", required=True, metavar="MODEL", help="base model: Hugging Face id or local folder")
    parser.add_argument(
        "--attributes", metavar="DIALS",
        help="NAME=WHO,… where WHO is measure:NAME, judge, judge:RATINGS, classifier:MODEL:LABEL or people; or a "
        "preset or YAML file (default: columns of ratings, else measures that vary in the replies)",
    )  # fmt: skip
    options.add_columns(parser)
    parser.add_argument("--format", help="how the data are laid out (default: guessed)")
    parser.add_argument("--encoder", metavar="MODEL", help="base of the attribute model, where one is needed")
    parser.add_argument("--name", help="name of the run (default: that of --out, else of the data)")
    parser.add_argument("--out", type=Path, help="recipe to write (default: NAME.yaml)")
    parser.add_argument("--force", action="store_true", help="write over a recipe that is there")
    parser.add_argument("--seed", type=int, default=0, help="seed of the run (default: %(default)s)")


def run(arguments: argparse.Namespace) -> int:
    """Write a recipe; what its owner must still do is said."""
    name = arguments.name or _name_of(arguments.data if arguments.out is None else str(arguments.out))
    if not re.fullmatch(r"[A-Za-z0-9_.-]+", name):
        raise UserError(f"--name {name!r} may hold letters, digits and _ . - only")
    out = arguments.out or Path(f"{name}.yaml")
    if out.exists() and not arguments.force:
        raise UserError(f"{out} is there already; --force writes over it, --out names another file")
    named_models.base_model(arguments.base, "--base")
    from steerlm.attributes import Attribute, AttributeSchema
    from steerlm.planning.dials_for import suggested_attributes, with_ratings_that_exist
    from steerlm.planning.looking import look_at_data, look_at_model

    path = _path_of(arguments.data)
    columns = _columns(arguments.columns)
    named = _named(arguments.attributes)
    guess = _guess(arguments, path, columns, named)
    attributes = _attributes(arguments.attributes, named, guess, columns)
    source = _source(name, arguments.data, path, guess, attributes)
    data = look_at_data(source, AttributeSchema(tuple(attributes) or (Attribute("nobody_rates_this"),)))
    _say_data(data)
    _check_told(attributes, data, guess, arguments.data)
    if not attributes:
        attributes, missing = suggested_attributes(data)
        for text in missing:
            terminal.say(f"no dial  {text}")
    schema = with_ratings_that_exist(AttributeSchema(tuple(attributes)), data)
    for attribute in schema:
        terminal.say(
            f"dial     {attribute.name} {attribute.levels[0]}..{attribute.levels[-1]}, by {_teller(attribute)}"
        )
    model = look_at_model(arguments.base)
    terminal.say(f"model    {model}")
    setting = _setting(model, data, schema, guess, arguments.encoder)
    return _write(setting, source, name, out, arguments.seed)


def _name_of(data: str) -> str:
    return re.sub(r"[^A-Za-z0-9_-]+", "-", Path(data).name.split(".")[0]).strip("-") or "first"


def _path_of(data: str) -> Path | None:
    """Return the path of local data; None where the name can only be the hub's."""
    path = Path(data)
    if path.exists():
        return path
    if path.suffix or path.is_absolute() or data.startswith((".", "~")) or data.count("/") > 1:
        raise UserError(f"no such file or folder: {data}")
    return None


def _columns(text: str | None) -> dict[str, str]:
    from steerlm.sources import parse_columns

    return parse_columns(text) if text else {}


def _named(text: str | None) -> list[Attribute] | None:
    """Return the dials that are named, in a file or on the command line; None where nobody names any."""
    from steerlm.attributes import PRESETS
    from steerlm.planning.dials_for import read_shorthand

    if text is None:
        return None
    if "=" in text:
        return read_shorthand(text)
    if text.upper() not in PRESETS and not Path(text).suffix:
        raise UserError(
            f"--attributes {text!r} is no preset ({', '.join(PRESETS).lower()}) and no YAML file; a dial is "
            f"NAME=WHO, for example {text}=measure:words or {text}=judge"
        )
    return list(common.schema_of(text))


def _guess(
    arguments: argparse.Namespace, path: Path | None, columns: Mapping[str, str], named: Sequence[Attribute] | None
) -> SourceGuess:
    """Return how the data are read, and say what of it was guessed."""
    from steerlm.sources.guessing import guess_source

    dials = [attribute.name for attribute in named or () if attribute.said_by == "people"]
    guess = guess_source(arguments.data, path, columns, arguments.format, dials)
    if not guess.certain and sys.stdin.isatty() and sys.stdout.isatty():
        guess = guess_source(arguments.data, path, {**columns, **_asked(guess)}, arguments.format, dials)
    for text in guess.said:
        terminal.say(f"guessed  {text}")
    for text in guess.doubts:
        terminal.say(f"warning  {text}")
    return guess


def _asked(guess: SourceGuess) -> dict[str, str]:
    """Ask which columns hold the exchange; Enter takes what was guessed."""
    said = {}
    for part, what in (("prompt", "what the user says"), ("response", "the reply to it")):
        guessed = guess.columns.get(part, part)
        said[part] = input(f"Which column is {what}? [{guessed}] ").strip() or guessed
    return said


def _attributes(
    text: str | None, named: Sequence[Attribute] | None, guess: SourceGuess, columns: Mapping[str, str]
) -> list[Attribute]:
    """Return the dials that are named, and those that a column rates; say which ratings are not used.

    Raises:
        UserError: a column of a dial's name that holds no ratings.
    """
    from steerlm.sources.column_names import plain_name

    rated = {column.attribute.name: column.attribute for column in guess.rated}
    dials = list(rated.values()) if named is None else list(named)
    by_people = {attribute.name for attribute in dials if attribute.said_by == "people"}
    short = named is not None and text is not None and "=" in text
    for column, why in guess.unused:
        if plain_name(column) not in by_people:
            terminal.say(f"not used {column}: {why}")
        elif short:
            name = plain_name(column)
            raise UserError(f"--attributes {name}=people: no ratings to learn from in {column!r}: {why}")
    if short:  # of an attribute that is rated, the ratings know the scale
        dials = [rated.get(a.name, a) if a.said_by == "people" else a for a in dials]
    names = [attribute.name for attribute in dials]
    asked = [name.removeprefix("rating.") for name in columns if name.startswith("rating.")]
    left = [name for name in rated if name not in (*names, *asked)]
    if left:
        terminal.say(f"not used the ratings {', '.join(left)}: name them in --attributes, as in {left[0]}=people")
    return [*dials, *(rated[name] for name in asked if name not in names)]


def _source(
    name: str, origin: str, path: Path | None, guess: SourceGuess, attributes: Sequence[Attribute]
) -> SourceConfig:
    from steerlm.config import SourceConfig
    from steerlm.sources.column_names import plain_name

    used = {attribute.name for attribute in attributes if attribute.said_by == "people"}
    called = {rated.attribute.name: rated.column for rated in guess.rated if rated.column}
    # a file of attributes may know how to read what nobody could guess
    called |= {plain_name(column): column for column, _ in guess.unused if plain_name(column) not in called}
    columns = dict(guess.columns)
    for dial, column in called.items():
        if dial in used and (column != dial or guess.format != "table"):
            columns[f"rating.{dial}"] = column
    hub = origin if path is None else None
    return SourceConfig(name=name, format=guess.format, path=path, hub=hub, columns=columns)


def _say_data(data: DataLook) -> None:
    """Say what there is, and what a stranger should know of it."""
    from steerlm.sources.draft import is_placeholder

    terminal.say(f"data     {data}")
    if data.bad > _GRAVE * (data.records + data.bad):
        terminal.say(
            f"warning  {100 * data.bad / (data.records + data.bad):.0f} % of the rows cannot be read: mend them"
        )
    if empty := [reply for reply in data.replies() if is_placeholder(reply)]:
        terminal.say(
            f"warning  {len(empty):,} replies say nothing ({empty[0]!r}): they would be trained; take them out"
        )
    if data.records < _FEWEST:
        terminal.say(f"warning  {data.records} conversations teach no dial: it takes some hundreds")


def _check_told(attributes: Sequence[Attribute], data: DataLook, guess: SourceGuess, origin: str) -> None:
    """Raise where people are to say a dial's value and nobody has.

    Raises:
        UserError: names the dials, and who else could say their value.
    """
    replies = [one.messages[turn] for one in data.conversations for turn in one.assistant_turns]
    told = {name for reply in replies for name in (*reply.human_labels, *(reply.attributes or ()))}
    silent = [a.name for a in attributes if a.said_by == "people" and a.name not in told]
    if not silent:
        return
    first = silent[0]
    rated = [column.attribute.name for column in guess.rated if column.attribute.name not in silent]
    have = f" ({did_you_mean(first, rated)})" if rated else ""
    where = "" if guess.format == "oasst" else f" Where a column has it, say --columns rating.{first}=COLUMN;"
    raise UserError(
        f"--attributes: people are to say {', '.join(silent)}, but no reply in {origin} has such a rating{have}."
        f"{where} else let the text say it ({first}=measure:NAME), a model ({first}=classifier:MODEL:LABEL) or a judge "
        f"({first}=judge), or collect ratings with `steerlm rate`"
    )


def _teller(attribute: Attribute) -> str:
    if attribute.measure:
        return f"the measure {attribute.measure}"
    if attribute.classifier is not None:
        return f"the classifier {attribute.classifier.model}"
    return "people's ratings" if attribute.judge is None else f"a judge, {attribute.judge.ratings:,} turns"


def _setting(
    model: ModelLook, data: DataLook, schema: AttributeSchema, guess: SourceGuess, encoder: str | None
) -> InitSetting:
    from steerlm.planning.choosing import InitSetting
    from steerlm.planning.devices import memory_here
    from steerlm.planning.looking import measure_lengths

    shares = {column.attribute.name: column.share for column in guess.rated}
    labelled = all(a.said_by == "people" and shares.get(a.name, 0) >= _LABELLED for a in schema)
    needed = any(attribute.learned for attribute in schema)
    memory = memory_here()
    return InitSetting(
        model=model,
        data=data,
        lengths=measure_lengths(data, model, schema),
        schema=schema,
        encoder=(encoder or _encoder_for(model.name)) if needed else None,
        memory_gib=memory.gib,
        cpu=memory.cpu,
        labelled=labelled,
    )


def _encoder_for(base: str) -> str:
    """Return an encoder from the hub where it can be had, else the base model."""
    if not Path(base).exists():
        return _ENCODER
    from transformers import AutoConfig

    try:
        AutoConfig.from_pretrained(_ENCODER, local_files_only=True, trust_remote_code=False)
    except (OSError, ValueError):
        return base
    return _ENCODER


def _write(setting: InitSetting, source: SourceConfig, name: str, out: Path, seed: int) -> int:
    """Write the recipe once it loads, and say what it will cost."""
    from steerlm.planning.estimate import plan
    from steerlm.planning.printing import duration
    from steerlm.storage.files import write_text

    text, recipe = _recipe(setting, source, name, seed)
    planned = plan(recipe)
    trained = next((cost for cost in planned.stages if cost.stage == "train_sft"), None)
    if trained is not None and trained.fits is False and trained.largest_batch is not None:
        text, recipe = _recipe(dataclasses.replace(setting, most_tokens=trained.largest_batch), source, name, seed)
        planned = plan(recipe)
    out.parent.mkdir(parents=True, exist_ok=True)
    write_text(out, text)
    terminal.say(f"recipe   {out}: read it, every value says why; about {duration(planned.seconds)} on this machine")
    if planned.seconds is not None and planned.seconds > _LONG_S:
        terminal.say("long     fewer train_sft.epochs or evaluate.num_prompts, a smaller model or a GPU shorten it")
    for line in map(str, planned.findings):
        terminal.say(f"warning  {line}")
    for line in planned.problems:
        terminal.say(f"to do    {line}")
    terminal.say(f"\ncheck    steerlm run {shell_word(out)} --dry-run")
    terminal.say(f"run      steerlm run {shell_word(out)}")
    return 0


def _recipe(setting: InitSetting, source: SourceConfig, name: str, seed: int) -> tuple[str, Recipe]:
    import yaml

    from steerlm.config import build_recipe
    from steerlm.planning.choosing import sections
    from steerlm.planning.recipe_text import write_recipe

    head, body = sections(setting, source, name, seed)
    comment = f"Written by `steerlm init` for {setting.model.name} and {source.path or source.hub} ({setting.data})."
    text = write_recipe(head, setting.schema, body, comment)
    return text, build_recipe(yaml.safe_load(text), "the recipe that was made")

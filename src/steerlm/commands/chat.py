"""Talk to a steerable model; every attribute is a flag."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from steerlm.commands import common, named_models, options
from steerlm.errors import UserError

_EPILOG = """\
Every attribute that the model was trained on is a flag, given after the model:
  steerlm chat runs/x/bootstrap/model --humor 3              a level of its scale; the others stand at their defaults
  steerlm chat runs/x/bootstrap/model --humor 2.5            between two levels: both are mixed
  steerlm chat runs/x/bootstrap/model --humor none           left out of the prompt
  steerlm chat runs/x/bootstrap/model --humor 4 --strength humor=2     counts twice as much
  steerlm chat runs/x/bootstrap/model@humor=3,preset=teacher           as the server names a model and a setting
  echo "Why is the sky blue?" | steerlm chat runs/x/bootstrap/model    prints the answers only

In the chat /help lists the commands: /set, /humor off, /strength, /preset, /compare, /auto, /demonstrations,
/scores, /system, /reset, /quit.
"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.allow_abbrev = False  # an attribute may be called `max` or `sys`
    parser.usage = "%(prog)s [OPTION ...] MODEL [--ATTRIBUTE VALUE ...]"
    parser.epilog = _EPILOG
    parser.add_argument("model", metavar="MODEL", help="checkpoint or run folder, or FOLDER@humor=3,preset=teacher")
    parser.add_argument("--attribute-model", type=Path, help="attribute model for /scores")
    parser.add_argument(
        "--examples", type=Path, metavar="FILE",
        help="annotated conversations (annotate/train.jsonl of the run), for --auto and --demonstrations",
    )  # fmt: skip
    parser.add_argument("--auto", action="store_true", help="dials that are not set follow from each question")
    parser.add_argument(
        "--demonstrations", type=int, default=0, metavar="K",
        help="show the model so many training answers near the setting (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--preset", metavar="NAME", help="start from a named setting")
    parser.add_argument(
        "--strength", action="append", default=[], metavar="ATTRIBUTE=NUMBER",
        help="how much an attribute counts: 0 not at all, 1 as trained, 2 twice as much (repeatable)",
    )  # fmt: skip
    parser.add_argument("--system", help="system prompt")
    options.add_sampling(parser)
    parser.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: %(default)s)")
    options.add_threads(parser)


def run(arguments: argparse.Namespace) -> int:
    """Check everything that was said, then load the model and chat until the input ends or `/quit`."""
    from steerlm.chat.dials import ChatDials
    from steerlm.chat.session import Session, chat

    common.check_sampling(arguments)
    name, at, told = arguments.model.partition("@")
    if Path(arguments.model).is_dir():
        name, at, told = arguments.model, "", ""
    model, info = named_models.steerable_model(Path(name), "model")
    dials = ChatDials.of(info)
    setting, preset, flags = dials.defaults, arguments.preset, list(arguments.rest)
    turned: set[str] = set()
    for piece in reversed(told.split(",") if at else []):
        key, _, value = piece.partition("=")
        if key == "preset":
            preset = value
        else:
            flags[:0] = [f"--{piece}"]
    if preset is not None:
        chosen = dials.preset(preset)
        setting = dials.turned(setting, chosen.values, chosen.strengths)
        turned |= chosen.values.keys()
    try:
        options_here = [flag.lstrip("-") for action in arguments.parser._actions for flag in action.option_strings]
        values = dials.parse_flags(flags, options_here)
    except UserError:
        arguments.parser.print_usage(sys.stderr)
        raise
    strengths = {}
    for text in arguments.strength:
        key, equals, value = text.partition("=")
        if not equals:
            raise UserError(f"--strength {text!r} is not of the form ATTRIBUTE=NUMBER, for example humor=2")
        strengths[key] = dials.parse_strength(key, value)
    setting = dials.turned(setting, values, strengths)
    scorer = arguments.attribute_model
    if scorer is not None:
        scorer = named_models.attribute_model(scorer, "--attribute-model")
    if (arguments.auto or arguments.demonstrations) and arguments.examples is None:
        raise UserError("--auto and --demonstrations need training answers: --examples annotate/train.jsonl of the run")
    if not 0 <= arguments.demonstrations <= 9:
        raise UserError(f"--demonstrations must be 0 to 9, got {arguments.demonstrations}")
    if arguments.examples is not None:
        common.existing_file(arguments.examples, "--examples")
    from rich.console import Console

    from steerlm.generation.engine import Sampling, load_engine

    sampling = Sampling(arguments.max_new_tokens, arguments.temperature, arguments.top_k)
    terminal = Console(highlight=False, soft_wrap=True)
    session = Session(
        terminal, load_engine(model), dials, setting, sampling, arguments.seed, scorer, arguments.system,
        examples=arguments.examples, auto=arguments.auto, turned=turned | values.keys(),
        num_demonstrations=arguments.demonstrations,
    )  # fmt: skip
    chat(session, str(model))
    return 0

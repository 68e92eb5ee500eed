"""The command line: `steerlm run recipe.yaml` runs every step, and each step is a command of its own.

Whatever needs more than the standard library is imported when a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import difflib
import logging
import os
import sys
from collections.abc import Sequence
from importlib.metadata import version
from typing import Any, NoReturn, Protocol, TextIO

from steerlm.commands import (
    ablate,
    annotate,
    baselines,
    bootstrap,
    chat,
    check,
    compare,
    completion,
    contrast,
    evaluate,
    export,
    export_nemo,
    grow,
    init,
    judge,
    label,
    pairs,
    plan,
    playground,
    prepare,
    rate,
    refine,
    reinforce,
    report,
    run,
    serve,
    train_attribute_model,
    train_sft,
    tune_guidance,
)
from steerlm.commands.common import use_threads
from steerlm.commands.launching import refuse_ranks_of
from steerlm.errors import UserError, did_you_mean


class Command(Protocol):
    """A module of `steerlm.commands`; the first line of its docstring is its help."""

    __doc__: str | None

    def add(self, parser: argparse.ArgumentParser) -> None:
        """Add the arguments."""

    def run(self, arguments: argparse.Namespace) -> int:
        """Do it; returns the exit status."""


COMMANDS: dict[str, Command] = {
    "init": init,
    "run": run,
    "plan": plan,
    "playground": playground,
    "prepare": prepare,
    "label": label,
    "pairs": pairs,
    "train-attribute-model": train_attribute_model,
    "annotate": annotate,
    "train-sft": train_sft,
    "bootstrap": bootstrap,
    "refine": refine,
    "contrast": contrast,
    "reinforce": reinforce,
    "tune-guidance": tune_guidance,
    "grow": grow,
    "evaluate": evaluate,
    "report": report,
    "check": check,
    "ablate": ablate,
    "judge": judge,
    "baselines": baselines,
    "rate": rate,
    "compare": compare,
    "chat": chat,
    "serve": serve,
    "export": export,
    "export-nemo": export_nemo,
    "completion": completion,
}

_EPILOG = """\
examples:
  steerlm run playground                               all four steps on the CPU, in minutes
  steerlm init chats.csv --base MODEL                  a first recipe for your own data
  steerlm run recipe.yaml --dry-run                    validate everything, estimate cost, compute nothing
  steerlm run recipe.yaml --set train_sft.epochs=2     override one value of the recipe
  steerlm annotate --model runs/x/train_attribute_model/model --data chats.jsonl --out labelled
  steerlm chat runs/playground/bootstrap/model --humor 4
"""


class Parser(argparse.ArgumentParser):
    """A parser that offers the nearest name for an unknown one, under the command's own usage."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**{"formatter_class": argparse.RawDescriptionHelpFormatter, **options})
        self._given: list[str] = []

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse, and remember what was given for `error`."""
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def _check_value(self, action: argparse.Action, value: Any) -> None:
        if action.choices is not None and value not in action.choices:
            raise argparse.ArgumentError(action, f"{value!r} is not known: {did_you_mean(str(value), action.choices)}")

    def error(self, message: str) -> NoReturn:
        """Print usage and message, and leave; flags that this command does not know are named as well."""
        flags = [flag for flag in self._option_string_actions if flag.startswith("--")]
        unknown = [flag for word in self._given if (flag := word.split("=")[0]).startswith("--") and len(flag) > 2]
        unknown = [flag for flag in unknown if not any(known.startswith(flag) for known in flags)]
        hints = [f"unknown flag {flag}: {_nearest_flag(flag, flags)}" for flag in unknown]
        super().error("; ".join([message, *hints] if not message.startswith("unrecognized") or not hints else hints))


def _nearest_flag(flag: str, flags: Sequence[str]) -> str:
    """Return a sentence that offers the nearest flag, or lists them all."""
    # without the dashes, which make all flags alike
    near = difflib.get_close_matches(flag[2:], [known[2:] for known in flags], n=1)
    return f"did you mean '--{near[0]}'? (valid: {', '.join(flags)})" if near else f"valid: {', '.join(flags)}"


def build_parser() -> argparse.ArgumentParser:
    parser = Parser(
        prog="steerlm",
        description="Attribute-conditioned fine-tuning (SteerLM): language models with dials.",
        epilog=_EPILOG,
    )
    parser.add_argument("--version", action="version", version=f"steerlm {version('steerlm')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND", parser_class=Parser)
    for name, module in COMMANDS.items():
        text = (module.__doc__ or "").splitlines()[0]
        command = commands.add_parser(name, help=text[0].lower() + text[1:].rstrip("."), description=text)
        command.set_defaults(parser=command)
        module.add(command)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on standard error and exit status 2."""
    parser = build_parser()
    if "_ARGCOMPLETE" in os.environ:  # the shell asks what the Tab key could mean
        import argcomplete

        argcomplete.autocomplete(parser)
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "chat":
        arguments.parser.error(f"unrecognized arguments: {' '.join(rest)}")
    arguments.rest = rest
    arguments.argv = sys.argv[1:] if argv is None else list(argv)
    # keeps third-party chatter off the terminal, in workers too; their warnings and errors stay
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    _show_log()
    try:
        refuse_ranks_of(arguments.command)
        use_threads(getattr(arguments, "threads", None))
        return COMMANDS[arguments.command].run(arguments)
    except UserError as error:
        print(f"steerlm: error: {error}", file=sys.stderr)
        return 2
    except PermissionError as error:
        place = error.filename or error
        print(f"steerlm: error: no permission for {place}: give another place, or change its rights", file=sys.stderr)
        return 1
    except OSError as error:
        # A full disk, a broken one: the system's own words name the cause.
        print(f"steerlm: error: {error}; what was written before is kept, the same command goes on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("steerlm: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


class _Terminal(logging.StreamHandler):  # type: ignore[type-arg]
    """Writes to standard error as it is at that moment."""

    @property
    def stream(self) -> TextIO:
        return sys.stderr

    @stream.setter
    def stream(self, value: TextIO) -> None:
        """Nothing to set: the stream is found anew every time."""


def _show_log() -> None:
    """Show what the stages say while they work; of several processes of one training, only the first one speaks."""
    log = logging.getLogger("steerlm")
    if not any(isinstance(handler, _Terminal) for handler in log.handlers):
        handler = _Terminal()
        handler.setFormatter(logging.Formatter("  %(message)s"))
        log.addHandler(handler)
    log.setLevel(logging.INFO if os.environ.get("RANK", "0") == "0" else logging.WARNING)


if __name__ == "__main__":
    sys.exit(main())

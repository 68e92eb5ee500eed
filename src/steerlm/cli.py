"""The command line: `steerlm run recipe.yaml` runs every step, and each step is a command of its own.

Whatever needs more than the standard library is imported when a command runs, so that `--help` answers at once.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from steerlm.commands.arguments import build_parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; a user's mistake is one line on standard error and exit status 2."""
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    if rest and arguments.command != "chat":
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    from steerlm.errors import UserError

    try:
        return _dispatch(arguments, rest)
    except UserError as error:
        print(f"steerlm: error: {error}", file=sys.stderr)
        return 2
    except OSError as error:
        # A full disk, a missing permission: the system's own words name the cause.
        print(f"steerlm: error: {error}; what was written before is kept, the same command goes on", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        print("steerlm: interrupted; the same command goes on where it stopped", file=sys.stderr)
        return 130


def _dispatch(arguments: argparse.Namespace, rest: list[str]) -> int:
    from steerlm.commands import handlers as commands

    command: str = arguments.command
    if command == "run":
        return commands.run(arguments)
    if command == "plan":
        from steerlm.commands.plan import run_plan

        return run_plan(arguments)
    if command == "report":
        return commands.report(arguments)
    if command == "check":
        return commands.check(arguments)
    if command == "ablate":
        return commands.ablate(arguments)
    if command == "baselines":
        return commands.baselines(arguments)
    if command == "judge":
        return commands.judge(arguments)
    if command == "serve":
        from steerlm.commands.serve import serve

        return serve(arguments)
    if command == "rate":
        from steerlm.commands.rate import rate

        return rate(arguments)
    if command == "compare":
        return commands.compare(arguments)
    if command == "chat":
        return commands.chat(arguments, rest)
    if command == "export":
        return commands.export(arguments)
    if command == "export-nemo":
        return commands.export_nemo(arguments)
    stage = command.replace("-", "_")
    if arguments.recipe is not None:
        return commands.stage_of_recipe(arguments, stage)
    return commands.standalone(arguments, stage)


def parse_overrides(pairs: Sequence[str]) -> dict[str, Any]:
    """Parse `key=value` pairs; values are YAML, so numbers, lists and null work.

    Raises:
        UserError: a pair without `=`, or a value that is not YAML.
    """
    import yaml

    from steerlm.errors import UserError

    parsed = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key:
            raise UserError(f"--set {pair!r} is not of the form key=value")
        try:
            parsed[key] = yaml.safe_load(value)
        except yaml.YAMLError:
            raise UserError(f"--set {pair!r}: {value!r} is not a YAML value") from None
    return parsed


if __name__ == "__main__":
    sys.exit(main())

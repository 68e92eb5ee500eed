"""Let people compare or rate answers on a local web page."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.commands import common, inputs, terminal
from steerlm.commands.serve import check_port, listen
from steerlm.errors import UserError, needs_extra, shell_word

if TYPE_CHECKING:
    from steerlm.attributes import AttributeSchema
    from steerlm.studies.rate.store import Study

DEFAULT_HOST, DEFAULT_PORT = "127.0.0.1", 8321
_QUESTIONS = {"comparison": "Which answer is better?", "rating": "How do you rate the last answer?"}


def add(parser: argparse.ArgumentParser) -> None:
    """Add the five actions."""
    parser.description = "Let people compare or rate answers on a local web page. A study is one folder."
    actions = parser.add_subparsers(dest="action", required=True, metavar="ACTION")

    new = _action(actions, "new", "make a study of stored answers (compare) or conversations (rate)")
    new.add_argument(
        "--answers", action="append", default=[], metavar="NAME=FILE",
        help="compare: a system's stored answers, conversations whose ids are the prompts' (repeat per system)",
    )  # fmt: skip
    new.add_argument("--questions", type=Path, help="compare: questions, JSONL (default: from the conversations)")
    new.add_argument("--data", type=Path, help="rate: conversations, JSONL")
    new.add_argument("--attributes", help="rate: schema preset (oasst, helpsteer, steerlm, paper) or YAML file")
    new.add_argument(
        "--turns", choices=["last", "all"], default="last", help="rate: which answers (default: %(default)s)"
    )
    new.add_argument(
        "--select", choices=["random", "uncertain"], default="random",
        help="rate: with --num-prompts, conversations drawn at random, or so many answers that tell most about the "
        "others (default: %(default)s)",
    )  # fmt: skip
    new.add_argument(
        "--prefill", action="store_true", help="rate: show the data's labels as chosen, to be confirmed or corrected"
    )
    new.add_argument("--question", help="what people are asked (default: which answer is better; how they rate it)")
    new.add_argument(
        "--num-prompts", type=int, help="use so many prompts (conversations), drawn at random (default: all)"
    )
    new.add_argument("--seed", type=int, default=0, help="seed of draw, order and sides (default: %(default)s)")

    invite = _action(actions, "invite", "print each annotator's link; without names: links and progress of all")
    invite.add_argument("names", nargs="*", metavar="NAME", help="annotators, new or known")
    invite.add_argument(
        "--url",
        default=f"http://{DEFAULT_HOST}:{DEFAULT_PORT}",
        help="where they find the page (default: %(default)s)",
    )

    serve = _action(actions, "serve", "serve the page until interrupted")
    serve.add_argument("--host", default=DEFAULT_HOST, help="address to listen on (default: %(default)s, this machine)")
    serve.add_argument("--port", type=int, default=DEFAULT_PORT, help="0 = any free one (default: %(default)s)")

    results = _action(actions, "results", "agreement, bias and rankings: a table and STUDY/results.json")
    results.add_argument("--judge", type=Path, help="a judge's verdicts on the same prompts, JSONL")

    _action(actions, "export", "write the ratings as training data: STUDY/ratings.jsonl")


def _action(
    actions: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str
) -> argparse.ArgumentParser:
    action = actions.add_parser(name, help=text, description=text.capitalize() + ".")
    action.set_defaults(parser=action)
    action.add_argument("study", type=Path, help="folder of the study")
    return action


def run(arguments: argparse.Namespace) -> int:
    """`steerlm rate ACTION STUDY`."""
    actions = {"new": _new, "invite": _invite, "serve": _serve, "results": _results, "export": _export}
    return actions[arguments.action](arguments)


def _new(arguments: argparse.Namespace) -> int:
    from steerlm.studies.names import require_distinct_names, tidy_name
    from steerlm.studies.rate.items import comparisons, rated_turns
    from steerlm.studies.rate.store import create_study

    if bool(arguments.answers) == bool(arguments.data):
        raise UserError("give either --answers NAME=FILE twice or more (compare), or --data and --attributes (rate)")
    schema = None
    answers: dict[str, Path] = {}
    if arguments.data:
        if arguments.questions:
            raise UserError("--questions goes with --answers; conversations hold their own")
        schema = common.schema_of(arguments.attributes)
        inputs.conversations_file(arguments.data, "--data")
        items = rated_turns(
            arguments.data, arguments.turns, arguments.num_prompts, arguments.seed, arguments.select,
            schema if arguments.prefill else None,
        )  # fmt: skip
    else:
        if arguments.prefill or arguments.select != "random":
            raise UserError("--prefill and --select go with --data; nobody has labelled a comparison before")
        if arguments.attributes:
            raise UserError("--attributes goes with --data; a comparison asks one question about every pair")
        for text in arguments.answers:
            name, equals, path = text.partition("=")
            name = tidy_name(name)
            if not equals or not name or name in answers:
                raise UserError(f"--answers {text!r} is not of the form NAME=FILE with a name of its own")
            answers[name] = Path(path)
        require_distinct_names(answers, "systems", "give other names with NAME=FILE")
        items = comparisons(answers, arguments.questions, arguments.num_prompts, arguments.seed)
    question = arguments.question or _QUESTIONS["comparison" if schema is None else "rating"]
    study = create_study(
        arguments.study, items, question=question, schema=schema, systems=list(answers), seed=arguments.seed
    )
    return _say_new(study)


def new_rating_study(data: Path, schema: AttributeSchema, folder: Path, number: int | None) -> int:
    """Make a study in which people rate the turns of a file that tell most about the others."""
    from steerlm.studies.rate.items import rated_turns
    from steerlm.studies.rate.store import create_study

    items = rated_turns(data, "all", number, 0, "uncertain")
    return _say_new(create_study(folder, items, question=_QUESTIONS["rating"], schema=schema, systems=[], seed=0))


def _say_new(study: Study) -> int:
    terminal.say(f"{study.num_items} items in {study.folder}")
    for reason, count in study.left_out.items():
        terminal.say(f"left out: {count} {reason}")
    terminal.say(f"next     steerlm rate invite {shell_word(study.folder)} NAME ...")
    return 0


def _invite(arguments: argparse.Namespace) -> int:
    from steerlm.studies.rate.store import invite, open_study

    study = open_study(arguments.study)
    invited = invite(study, arguments.names)
    _print_links(study, arguments.url.rstrip("/"), {rater.name for rater in invited})
    return 0


def _print_links(study: Study, url: str, wanted: set[str]) -> None:
    from steerlm.studies.rate.store import annotators, finished, read_answers

    everyone = annotators(study)
    if not everyone:
        terminal.say(f"nobody is invited yet: steerlm rate invite {shell_word(study.folder)} NAME ...")
    for annotator in everyone:
        if not wanted or annotator.name in wanted:
            done = len(finished(study, read_answers(study, annotator)))
            terminal.say(f"{annotator.name}  {url}/#{annotator.token}  {done} of {study.num_items} done")


def _serve(arguments: argparse.Namespace) -> int:
    from steerlm.studies.rate.store import open_study

    check_port(arguments.port)
    study = open_study(arguments.study)
    with needs_extra("rate", "the page"):
        import uvicorn

        from steerlm.studies.rate.server import create_app
    with listen(arguments.host, arguments.port) as listener:
        port = listener.getsockname()[1]
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        _print_links(study, f"http://{host}:{port}", set())
        if not _is_loopback(arguments.host):
            terminal.console().print(
                "[yellow]this address is open to the network and links travel in clear text: put a proxy with TLS in "
                f"front, or stay on {DEFAULT_HOST} and let annotators in by a tunnel[/yellow]"
            )
        terminal.say(f"serving {study.folder} on http://{host}:{port}; Ctrl-C ends it")
        config = uvicorn.Config(create_app(study), log_level="warning", access_log=False, server_header=False)
        with contextlib.suppress(KeyboardInterrupt):  # how people end it
            uvicorn.Server(config).run(sockets=[listener])
    return 0


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _results(arguments: argparse.Namespace) -> int:
    from steerlm.storage.files import write_json
    from steerlm.studies.rate.results import read_matches, study_results
    from steerlm.studies.rate.store import open_study
    from steerlm.studies.rate.tables import print_results

    study = open_study(arguments.study)
    judge = None if arguments.judge is None else read_matches(common.existing_file(arguments.judge, "--judge"))
    results = study_results(study, judge)
    write_json(study.folder / "results.json", results)
    print_results(results, terminal.console())
    terminal.say(f"results  {study.folder / 'results.json'}")
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from steerlm.studies.rate.export import export_ratings
    from steerlm.studies.rate.store import open_study

    study = open_study(arguments.study)
    path = study.folder / "ratings.jsonl"
    done = export_ratings(study, path)
    terminal.say(f"{done.ratings} ratings of {done.turns} answers in {done.conversations} conversations: {path}")
    if done.undecided:
        terminal.say(f"{done.undecided} categories left out: no majority")
    return 0

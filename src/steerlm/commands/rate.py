"""What `steerlm rate` does once its arguments are parsed."""

from __future__ import annotations

import argparse
import contextlib
import ipaddress
import socket
from pathlib import Path

from rich.console import Console

from steerlm.commands.rate_arguments import DEFAULT_HOST
from steerlm.errors import UserError, needs_extra
from steerlm.storage.files import write_json
from steerlm.studies.names import require_distinct_names, tidy_name
from steerlm.studies.rate.items import comparisons, rated_turns
from steerlm.studies.rate.store import Study, annotators, create_study, finished, invite, open_study, read_answers

RESULTS, RATINGS = "results.json", "ratings.jsonl"
QUESTIONS = {"comparison": "Which answer is better?", "rating": "How do you rate the last answer?"}

console = Console()


def rate(arguments: argparse.Namespace) -> int:
    """`steerlm rate ACTION STUDY`."""
    return {"new": _new, "invite": _invite, "serve": _serve, "results": _results, "export": _export}[arguments.action](
        arguments
    )


def _new(arguments: argparse.Namespace) -> int:
    if bool(arguments.answers) == bool(arguments.data):
        raise UserError("give either --answers NAME=FILE twice or more (compare), or --data and --attributes (rate)")
    schema = None
    answers: dict[str, Path] = {}
    if arguments.data:
        if arguments.questions:
            raise UserError("--questions goes with --answers; conversations hold their own")
        from steerlm.commands.handlers import _schema

        schema = _schema(arguments)
        items = rated_turns(arguments.data, arguments.turns, arguments.num_prompts, arguments.seed)
    else:
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
    question = arguments.question or QUESTIONS["comparison" if schema is None else "rating"]
    study = create_study(
        arguments.study, items, question=question, schema=schema, systems=list(answers), seed=arguments.seed
    )
    console.print(f"{study.num_items} items in {study.folder}", highlight=False)
    for reason, count in study.left_out.items():
        console.print(f"left out: {count} {reason}", highlight=False)
    console.print(f"next     steerlm rate invite {study.folder} NAME ...", highlight=False, markup=False)
    return 0


def _invite(arguments: argparse.Namespace) -> int:
    study = open_study(arguments.study)
    invited = invite(study, arguments.names)
    _print_links(study, arguments.url.rstrip("/"), {rater.name for rater in invited})
    return 0


def _print_links(study: Study, url: str, wanted: set[str]) -> None:
    everyone = annotators(study)
    if not everyone:
        console.print(f"nobody is invited yet: steerlm rate invite {study.folder} NAME ...", markup=False)
    for annotator in everyone:
        if not wanted or annotator.name in wanted:
            done = len(finished(study, read_answers(study, annotator)))
            line = f"{annotator.name}  {url}/#{annotator.token}  {done} of {study.num_items} done"
            console.print(line, markup=False, highlight=False, soft_wrap=True)


def _serve(arguments: argparse.Namespace) -> int:
    study = open_study(arguments.study)
    with needs_extra("rate", "the page"):
        import uvicorn

        from steerlm.studies.rate.server import create_app
    with _listen(arguments.host, arguments.port) as listener:
        port = listener.getsockname()[1]
        host = f"[{arguments.host}]" if ":" in arguments.host else arguments.host
        _print_links(study, f"http://{host}:{port}", set())
        if not _is_loopback(arguments.host):
            console.print(
                "[yellow]this address is open to the network and links travel in clear text: put a proxy with TLS in "
                f"front, or stay on {DEFAULT_HOST} and let annotators in by a tunnel[/yellow]"
            )
        said = f"serving {study.folder} on http://{host}:{port}; Ctrl-C ends it"
        console.print(said, markup=False, highlight=False, soft_wrap=True)
        config = uvicorn.Config(create_app(study), log_level="warning", access_log=False, server_header=False)
        with contextlib.suppress(KeyboardInterrupt):  # how people end it
            uvicorn.Server(config).run(sockets=[listener])
    return 0


def _listen(host: str, port: int) -> socket.socket:
    if not 0 <= port <= 65535:
        raise UserError(f"--port {port} is not a port: 0 to 65535")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UserError(f"cannot listen on {host} port {port} ({error}); --port 0 takes any free port") from None


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _results(arguments: argparse.Namespace) -> int:
    from steerlm.studies.rate.results import read_matches, study_results
    from steerlm.studies.rate.tables import print_results

    study = open_study(arguments.study)
    judge = None if arguments.judge is None else read_matches(arguments.judge)
    results = study_results(study, judge)
    write_json(study.folder / RESULTS, results)
    print_results(results, console)
    console.print(f"results  {study.folder / RESULTS}", markup=False, highlight=False)
    return 0


def _export(arguments: argparse.Namespace) -> int:
    from steerlm.studies.rate.export import export_ratings

    study = open_study(arguments.study)
    path = study.folder / RATINGS
    done = export_ratings(study, path)
    console.print(
        f"{done.ratings} ratings of {done.turns} answers in {done.conversations} conversations: {path}",
        markup=False, highlight=False,
    )  # fmt: skip
    if done.undecided:
        console.print(f"{done.undecided} categories left out: no majority", highlight=False)
    return 0

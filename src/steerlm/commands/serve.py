"""Serve a steerable model behind OpenAI's API."""

from __future__ import annotations

import argparse
import contextlib
import os
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from steerlm.commands import common, named_models
from steerlm.errors import UserError, needs_extra

if TYPE_CHECKING:
    from steerlm.server.upstream import Upstream


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = "Serve a steerable model behind OpenAI's API, until interrupted."
    parser.add_argument("model", type=Path, help="checkpoint folder, or run folder: its final model")
    parser.add_argument("--attribute-model", type=Path, help="attribute model, for scores and best-of-n")
    parser.add_argument(
        "--examples", type=Path, metavar="FILE",
        help="annotated conversations (annotate/train.jsonl of the run), for steer.demonstrations and steer.auto",
    )  # fmt: skip
    parser.add_argument("--policy", type=Path, help="YAML file with locks, presets and limits")
    parser.add_argument(
        "--api-key-file", type=Path, help="file with a name and a key per line; then every call needs one"
    )
    parser.add_argument("--name", help="the model's name in the API (default: from its folder)")
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s, this machine)")
    parser.add_argument("--port", type=int, default=8000, help="0 = any free one (default: %(default)s)")
    parser.add_argument(
        "--batch-size", type=int, default=64, help="most samples decoded together (default: %(default)s)"
    )
    parser.add_argument(
        "--engine", choices=("local", "vllm"), default="local",
        help="what draws the answers: the built-in engine, or vLLM in this process (default: %(default)s)",
    )  # fmt: skip
    upstream = parser.add_argument_group("in front of another server, which holds the weights")
    upstream.add_argument("--upstream", metavar="URL", help="OpenAI-compatible server, for example http://host:8000/v1")
    upstream.add_argument("--upstream-model", metavar="NAME", help="the model's name there (default: its first one)")
    upstream.add_argument("--upstream-key-env", metavar="NAME", help="environment variable with the key for it")
    upstream.add_argument(
        "--upstream-chat", action="store_true", help="for servers that take messages only, no token ids"
    )


def run(arguments: argparse.Namespace) -> int:
    """Serve until interrupted."""
    common.at_least("--batch-size", arguments.batch_size, 1)
    check_port(arguments.port)
    if "@" in (arguments.name or ""):
        raise UserError(f"--name {arguments.name}: what follows an @ is a setting, as in model@humor=4; leave it out")
    check_upstream(arguments)
    model, _ = named_models.steerable_model(arguments.model, "model")
    if arguments.attribute_model is not None:
        arguments.attribute_model = named_models.attribute_model(arguments.attribute_model, "--attribute-model")
    for option, path in (
        ("--policy", arguments.policy),
        ("--examples", arguments.examples),
        ("--api-key-file", arguments.api_key_file),
    ):
        if path is not None:
            common.existing_file(path, option)
    # Ctrl-C is how a server ends; by then it has shut down in order
    with contextlib.suppress(KeyboardInterrupt), listen(arguments.host, arguments.port) as listener:
        print(f"starting with {model} ...", file=sys.stderr, flush=True)  # the imports alone take seconds
        with needs_extra("serve", "the server"):
            from steerlm.server.run import serve
        serve(
            model,
            attribute_model=arguments.attribute_model,
            policy=arguments.policy,
            api_key_file=arguments.api_key_file,
            name=arguments.name,
            host=arguments.host,
            listener=listener,
            batch_size=arguments.batch_size,
            upstream=upstream_of(arguments),
            engine=arguments.engine,
            examples=arguments.examples,
        )
    return 0


def check_port(port: int) -> None:
    """Refuse what is no port."""
    if not 0 <= port < 1 << 16:
        raise UserError(f"--port must be 0 to 65535, got {port}")


def listen(host: str, port: int) -> socket.socket:
    """Take an address, so that nothing is loaded for one that another process has."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family)
    except OSError as error:  # taken, not allowed, or no address of this machine
        raise UserError(f"cannot listen on {host} port {port} ({error}); --port 0 takes any free port") from None


def check_upstream(arguments: argparse.Namespace) -> None:
    """Refuse options of an upstream server that do not go together, before anything is loaded."""
    url, key_name = arguments.upstream, arguments.upstream_key_env
    if url is None:
        if arguments.upstream_model is not None or key_name is not None or arguments.upstream_chat:
            raise UserError("--upstream-model, --upstream-key-env and --upstream-chat need --upstream URL")
        return
    if arguments.engine != "local":
        raise UserError(f"--upstream draws the answers elsewhere: leave --engine {arguments.engine} out")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UserError(f"--upstream {url!r} is not of the form http://host:8000/v1")
    if key_name is not None and not os.environ.get(key_name):
        raise UserError(f"--upstream-key-env {key_name}: there is no such environment variable, or it is empty")


def upstream_of(arguments: argparse.Namespace) -> Upstream | None:
    """Return the upstream server that the arguments name; None = none."""
    from steerlm.server.upstream import Upstream

    check_upstream(arguments)
    if arguments.upstream is None:
        return None
    key = None if arguments.upstream_key_env is None else os.environ[arguments.upstream_key_env]
    return Upstream(arguments.upstream, arguments.upstream_model, key, arguments.upstream_chat)

"""The arguments of `steerlm serve`: standard library only, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path


def add_serve(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `steerlm serve` to its parser."""
    parser.description = "Serve a steerable model behind OpenAI's API, until interrupted."
    parser.add_argument("model", type=Path, help="checkpoint folder")
    parser.add_argument("--attribute-model", type=Path, help="attribute model, for scores and best-of-n")
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
        "--engine",
        choices=("local", "vllm"),
        default="local",
        help="what draws the answers: the built-in engine, or vLLM in this process (default: %(default)s)",
    )
    upstream = parser.add_argument_group("in front of another server, which holds the weights")
    upstream.add_argument("--upstream", metavar="URL", help="OpenAI-compatible server, for example http://host:8000/v1")
    upstream.add_argument("--upstream-model", metavar="NAME", help="the model's name there (default: its first one)")
    upstream.add_argument("--upstream-key-env", metavar="NAME", help="environment variable with the key for it")
    upstream.add_argument(
        "--upstream-chat", action="store_true", help="for servers that take messages only, no token ids"
    )

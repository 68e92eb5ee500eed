"""What `steerlm serve` does once its arguments are parsed."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from steerlm.errors import UserError, needs_extra

if TYPE_CHECKING:
    from steerlm.server.upstream import Upstream


def serve(arguments: argparse.Namespace) -> int:
    """`steerlm serve MODEL`."""
    print(f"starting with {arguments.model} ...", file=sys.stderr, flush=True)  # the imports alone take seconds
    with needs_extra("serve", "the server"):
        from steerlm.server.run import serve as run
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    if not 0 <= arguments.port < 1 << 16:
        raise UserError(f"--port must be 0 to 65535, got {arguments.port}")
    if "@" in (arguments.name or ""):
        raise UserError(f"--name {arguments.name}: what follows an @ is a setting, as in model@humor=4; leave it out")
    # Ctrl-C is how a server ends; by then it has shut down in order
    with contextlib.suppress(KeyboardInterrupt):
        run(
            arguments.model,
            attribute_model=arguments.attribute_model,
            policy=arguments.policy,
            api_key_file=arguments.api_key_file,
            name=arguments.name,
            host=arguments.host,
            port=arguments.port,
            batch_size=arguments.batch_size,
            upstream=_upstream(arguments),
            engine=arguments.engine,
        )
    return 0


def _upstream(arguments: argparse.Namespace) -> Upstream | None:
    from steerlm.server.upstream import Upstream

    url, key_name = arguments.upstream, arguments.upstream_key_env
    if url is None:
        if arguments.upstream_model is not None or key_name is not None or arguments.upstream_chat:
            raise UserError("--upstream-model, --upstream-key-env and --upstream-chat need --upstream URL")
        return None
    if arguments.engine != "local":
        raise UserError(f"--upstream draws the answers elsewhere: leave --engine {arguments.engine} out")
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or parts.query or parts.fragment:
        raise UserError(f"--upstream {url!r} is not of the form http://host:8000/v1")
    key = None if key_name is None else os.environ.get(key_name)
    if key_name is not None and not key:
        raise UserError(f"--upstream-key-env {key_name}: there is no such environment variable, or it is empty")
    return Upstream(url, arguments.upstream_model, key, arguments.upstream_chat)

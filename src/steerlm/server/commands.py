"""What `steerlm serve` does once its arguments are parsed."""

from __future__ import annotations

import argparse
import contextlib

from steerlm.errors import UserError


def serve(arguments: argparse.Namespace) -> int:
    """`steerlm serve MODEL`."""
    try:
        from steerlm.server.run import serve as run
    except ModuleNotFoundError as error:
        raise UserError(f"the server needs another package ({error.name}): pip install 'steerlm[serve]'") from None
    if arguments.batch_size < 1:
        raise UserError(f"--batch-size must be at least 1, got {arguments.batch_size}")
    if not 0 <= arguments.port < 1 << 16:
        raise UserError(f"--port must be 0 to 65535, got {arguments.port}")
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
        )
    return 0

"""A worker whose model is in memory: a thread of this process in place of a process of its own."""

from __future__ import annotations

import multiprocessing
import threading

from steerlm.generation.decoding import Decoder
from steerlm.generation.worker import Worker, work


def thread_worker(decoder: Decoder) -> Worker:
    """Start a worker in this process.

    Args:
        decoder: only the worker uses it from now on.
    """
    ours, theirs = multiprocessing.Pipe()
    thread = threading.Thread(target=work, args=(decoder, theirs), name="steerlm-decoding", daemon=True)
    thread.start()
    return Worker(ours, thread)

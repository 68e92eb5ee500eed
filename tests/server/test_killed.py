"""kill -9 under load, and the same command again: nothing to repair."""

from __future__ import annotations

import hashlib
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from steerlm.checkpoint.models import CheckpointInfo, save_model
from tests.server.running import SCHEMA, statistics
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

BODY: dict[str, Any] = {"model": "tiny", "messages": [{"role": "user", "content": "Hi"}], "temperature": 0}


def start(model: Path, port: int) -> tuple[subprocess.Popen[str], str]:
    process = subprocess.Popen(
        [sys.executable, "-m", "steerlm", "serve", str(model), "--name", "tiny", "--port", str(port)],
        stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert process.stdout is not None
    line = process.stdout.readline()
    assert line.startswith("tiny at http://127.0.0.1:"), line
    return process, line.split()[2].removesuffix("/v1")


def fingerprint(folder: Path) -> dict[str, str]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


@pytest.mark.slow
def test_killed_under_load_and_started_again(tmp_path: Path) -> None:
    model = tmp_path / "model"
    tokenizer = byte_tokenizer(SCHEMA)
    info = CheckpointInfo("sft", SCHEMA, "steerlm", label_statistics=statistics())
    save_model(model, random_model(tiny_llama_config(len(tokenizer)), 22, 0.25), tokenizer, info, "card")
    before = fingerprint(tmp_path)
    process, url = start(model, 0)
    answer = httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=60).json()["choices"][0]["message"]["content"]
    answered, failed, stop = [], [], threading.Event()

    def load() -> None:
        while not stop.is_set():
            try:
                reply = httpx.post(f"{url}/v1/chat/completions", json={**BODY, "stream": True}, timeout=20)
                answered.append(reply.status_code)
            except httpx.TransportError as error:
                failed.append(error)
                return

    threads = [threading.Thread(target=load) for _ in range(8)]
    for thread in threads:
        thread.start()
    while len(answered) < 16:
        time.sleep(0.01)
    process.send_signal(signal.SIGKILL)
    process.wait(20)
    assert process.stdout is not None
    process.stdout.close()
    stop.set()
    for thread in threads:
        thread.join(30)
    assert failed, "nobody was being answered"
    assert set(answered) == {200}
    assert fingerprint(tmp_path) == before
    # the same port: nothing of the old process is left in the way
    process, again = start(model, int(url.rsplit(":", 1)[1]))
    assert again == url
    reply = httpx.post(f"{url}/v1/chat/completions", json=BODY, timeout=60)
    assert reply.json()["choices"][0]["message"]["content"] == answer
    process.send_signal(signal.SIGINT)
    assert process.wait(30) == 0
    assert process.stdout is not None
    process.stdout.close()

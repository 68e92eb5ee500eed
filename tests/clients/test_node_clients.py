"""The official OpenAI client for Node and the Vercel AI SDK drive a server; installed into a temporary folder."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.server.running import running, tiny_service

PACKAGES = ["openai", "ai", "@ai-sdk/openai", "@ai-sdk/openai-compatible"]


@pytest.mark.slow
def test_node_clients(tmp_path: Path) -> None:
    if shutil.which("node") is None or shutil.which("npm") is None:
        pytest.skip("node and npm are not installed")
    shutil.copy(Path(__file__).with_name("clients.mjs"), tmp_path)
    (tmp_path / "package.json").write_text('{"private": true}', encoding="utf-8")
    install = ["npm", "install", "--silent", "--no-audit", "--no-fund", *PACKAGES]
    done = subprocess.run(install, cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False)
    if done.returncode:
        pytest.skip(f"npm cannot install the clients: {done.stderr.strip()[:200]}")
    with running(tiny_service()) as server:
        command = ["node", "clients.mjs", f"{server.url}/v1", "tiny"]
        ran = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert ran.stdout.split("\n")[:-1] == [
        "openai chat", "openai responses", "openai steering", "ai-sdk default", "ai-sdk chat", "ai-sdk compatible",
    ]  # fmt: skip

"""lm-evaluation-harness against a server and on the checkpoint itself: the figures must be equal.

    python tests/clients/lm_eval_against_hf.py RUN/bootstrap/model RUN/prepare/validation.jsonl

Two kinds of tasks, made from a file of conversations: which of four answers is likeliest (`loglikelihood`, through
`/v1/completions` with `echo`), and greedy answers (`generate_until`, through chats).
Needs `pip install "lm_eval[api]"`.
"""

from __future__ import annotations

import contextlib
import json
import os
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

COUNT = 40
CHOICE = """task: steerlm_choice
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: multiple_choice
test_split: test
doc_to_text: "{{question}}"
doc_to_choice: "{{choices}}"
doc_to_target: "{{label}}"
metric_list: [{metric: acc}, {metric: acc_norm}]
"""
ANSWER = """task: steerlm_answer
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
output_type: generate_until
test_split: test
doc_to_text: "{{question}}"
doc_to_target: "{{choices[label]}}"
generation_kwargs: {until: ["\\n\\n"], max_gen_toks: 40, do_sample: false, temperature: 0.0}
metric_list: [{metric: exact_match}]
"""


def make_tasks(conversations: Path, folder: Path) -> None:
    """Write questions with four answers, three of which are those to the next questions."""
    rows = [json.loads(line)["messages"] for line in conversations.read_text(encoding="utf-8").splitlines()]
    pairs = [(m[-2]["content"], m[-1]["content"]) for m in rows if len(m) >= 2 and m[-1]["role"] == "assistant"]
    pairs = list(dict(pairs).items())[: COUNT + 3]
    with (folder / "docs.jsonl").open("w", encoding="utf-8") as file:
        for i in range(min(COUNT, len(pairs) - 3)):
            answers = [" " + pairs[i + k][1] for k in range(4)]
            row = {"question": pairs[i][0], "choices": answers[-(i % 4) :] + answers[: -(i % 4)], "label": i % 4}
            file.write(json.dumps(row) + "\n")
    for name, text in (("choice", CHOICE), ("answer", ANSWER)):
        (folder / f"{name}.yaml").write_text(text.replace("FILE", str(folder / "docs.jsonl")), encoding="utf-8")


@contextlib.contextmanager
def serving(model: Path) -> Iterator[str]:
    """Serve a checkpoint on a free port of loopback."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "steerlm", "serve", str(model), "--name", "served", "--port", str(port)]
    server = subprocess.Popen(command)
    try:
        url = f"http://127.0.0.1:{port}"
        for _ in range(600):
            with contextlib.suppress(OSError):
                urllib.request.urlopen(f"{url}/health")
                break
            time.sleep(0.2)
        yield f"{url}/v1"
    finally:
        server.terminate()
        server.wait()


def evaluate(task: str, folder: Path, model: str, arguments: dict[str, Any], chat: bool) -> dict[str, Any]:
    """Return the harness' results, with its samples."""
    import lm_eval
    from lm_eval.tasks import TaskManager

    found: dict[str, Any] = lm_eval.simple_evaluate(
        model=model, model_args=arguments, tasks=[task], task_manager=TaskManager(include_path=str(folder)),
        apply_chat_template=chat, log_samples=True, bootstrap_iters=0, batch_size=4 if not chat else 1,
    )  # fmt: skip
    return found


def main() -> int:
    """Compare; the exit status says whether all is equal."""
    model, conversations = Path(sys.argv[1]).resolve(), Path(sys.argv[2])
    os.environ.setdefault("OPENAI_API_KEY", "none")
    local = {"pretrained": str(model), "dtype": "float32", "device": "cpu"}
    worst, equal, total = 0.0, 0, 0
    with tempfile.TemporaryDirectory() as temporary, serving(model) as url:
        folder = Path(temporary)
        make_tasks(conversations, folder)
        remote = {"model": "served", "tokenizer": str(model), "tokenizer_backend": "huggingface"}
        completions = remote | {"base_url": f"{url}/completions"}
        choice = [
            evaluate("steerlm_choice", folder, "hf", local, chat=False),
            evaluate("steerlm_choice", folder, "local-completions", completions, chat=False),
        ]
        answers = [
            evaluate("steerlm_answer", folder, "hf", local, chat=True),
            evaluate(
                "steerlm_answer", folder, "local-chat-completions",
                {"model": "served", "base_url": f"{url}/chat/completions"}, chat=True,
            ),
        ]  # fmt: skip
    for ours, theirs in zip(*(run["samples"]["steerlm_choice"] for run in choice), strict=True):
        for (first, greedy), (second, also) in zip(ours["filtered_resps"], theirs["filtered_resps"], strict=True):
            worst = max(worst, abs(float(first) - float(second)))
            assert greedy == also
    for ours, theirs in zip(*(run["samples"]["steerlm_answer"] for run in answers), strict=True):
        total += 1
        equal += ours["filtered_resps"] == theirs["filtered_resps"]
        if ours["filtered_resps"] != theirs["filtered_resps"]:
            print("DIFFERS", repr(ours["filtered_resps"]), repr(theirs["filtered_resps"]))
    for name, runs in (("steerlm_choice", choice), ("steerlm_answer", answers)):
        print(name, "hf:", runs[0]["results"][name], "served:", runs[1]["results"][name], sep="\n  ")
    print(f"largest difference of a log-likelihood: {worst:.2g}; equal answers: {equal} of {total}")
    figures = [run["results"]["steerlm_choice"]["acc,none"] for run in choice]
    return 0 if figures[0] == figures[1] and worst < 1e-2 and equal == total else 1


if __name__ == "__main__":
    sys.exit(main())

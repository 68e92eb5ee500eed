"""Build the wheel, install it without extras into clean environments outside of the clone, and use it there.

    python scripts/check_wheel.py python3.11 python3.13

Each argument is a Python to install into; without one it is the Python that runs this. `--pip` adds words to every
`pip install`, for example a constraints file or an index with CPU builds of torch. Prints what every step took.
"""

from __future__ import annotations

import argparse
import os
import re
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SHORT = {
    "playground.num_prompts": "150",
    "playground.num_held_out": "20",
    "playground.hidden_size": "48",
    "playground.num_layers": "1",
    "playground.num_heads": "2",
    "playground.pretrain_epochs": "0.3",
    "playground.vocab_size": "1024",
    "train_attribute_model.max_steps": "40",
    "train_sft.max_steps": "40",
    "bootstrap.num_prompts": "12",
    "bootstrap.samples_per_prompt": "2",
    "bootstrap.epochs": "0.5",
    "bootstrap.filter": "none",
    "bootstrap.tolerance": "4",  # forty steps teach no dial
    "evaluate.num_prompts": "5",
    "evaluate.max_new_tokens": "12",
}
"""What makes a run of the playground's recipe take seconds."""


class Failed(Exception):
    """A step did not do what it should."""


def run(what: str, command: Sequence[str | Path], folder: Path, *, status: int = 0, said: str = "") -> str:
    """Run a command outside of the clone and print what it took.

    Args:
        what: printed.
        command: to run; reads "Hi" and the end from its standard input.
        folder: where.
        status: the exit status that is right.
        said: what must match in its output.

    Raises:
        Failed: another status, or something else was said.
    """
    own = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
    started = time.monotonic()
    done = subprocess.run(
        [str(word) for word in command], cwd=folder, env=own, input="Hi\n", stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT, text=True, check=False,
    )  # fmt: skip
    print(f"  {time.monotonic() - started:7.1f} s  {what}", flush=True)
    if done.returncode != status or not re.search(said, done.stdout):
        raise Failed(f"{what}: status {done.returncode}, wanted {status} and {said!r}; it said:\n{done.stdout[-4000:]}")
    return done.stdout


def check(python: str, wheel: Path, folder: Path, pip: Sequence[str]) -> None:
    """Install the wheel for one Python and use it.

    Raises:
        Failed: a step did not do what it should.
    """
    folder.mkdir()
    version = run("its version", [python, "--version"], folder).strip()
    print(f"{version}:", flush=True)
    run("environment", [python, "-m", "venv", folder / "venv"], folder)
    scripts = folder / "venv" / ("Scripts" if os.name == "nt" else "bin")
    run("pip install", [scripts / "python", "-m", "pip", "install", "--quiet", wheel, *pip], folder)
    run("pip check", [scripts / "python", "-m", "pip", "check"], folder)
    steerlm, work = scripts / "steerlm", folder / "work"
    work.mkdir()
    run("steerlm --version", [steerlm, "--version"], work, said=r"^steerlm \d+\.\d+")
    run("steerlm --help", [steerlm, "--help"], work, said="train-attribute-model")
    run("steerlm run playground --dry-run", [steerlm, "run", "playground", "--dry-run"], work, said="no problem found")
    settings = [word for key, value in SHORT.items() for word in ("--set", f"{key}={value}")]
    run("steerlm run playground, short", [steerlm, "run", "playground", *settings], work, said="requested against")
    page = (work / "runs" / "playground" / "report.html").read_text(encoding="utf-8")
    if "a plot needs matplotlib: pip install &#39;steerlm[report]&#39;" not in page:
        raise Failed("the report does not say which extra draws its plots")
    model = work / "runs" / "playground" / "bootstrap" / "model"
    run("steerlm chat", [steerlm, "chat", model, "--humor", "4", "--max-new-tokens", "8"], work)
    words = r"needs \w+: pip install 'steerlm\[serve\]'"
    said = run("steerlm serve, without its extra", [steerlm, "serve", model], work, status=2, said=words)
    lines = [line for line in said.splitlines() if not line.startswith("starting with")]
    if len(lines) != 1:
        raise Failed(f"one line is enough to name an extra, it said:\n{said}")


def main() -> int:
    """Check the wheel; returns 1 where a step failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("pythons", nargs="*", default=[sys.executable], help="Pythons to install into")
    parser.add_argument("--pip", default="", metavar="WORDS", help="more words for pip install")
    arguments = parser.parse_args()
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="steerlm-wheel-") as name:
        folder = Path(name)
        try:
            build = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", folder, ROOT]
            run("the wheel is built", build, folder)
            [wheel] = folder.glob("*.whl")
            for number, python in enumerate(arguments.pythons):
                check(python, wheel, folder / f"python-{number}", shlex.split(arguments.pip))
        except Failed as error:
            print(f"failed: {error}", file=sys.stderr)
            return 1
    print(f"  {time.monotonic() - started:7.1f} s  in all")
    return 0


if __name__ == "__main__":
    sys.exit(main())

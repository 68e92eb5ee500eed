"""The texts shown to a judge, read from `prompts.yaml`."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from steerlm.storage.files import read_yaml


class JudgePrompt(NamedTuple):
    """A system prompt and a template of the user prompt, filled with `str.format`."""

    system: str
    template: str


PROMPTS = {name: JudgePrompt(**texts) for name, texts in read_yaml(Path(__file__).with_suffix(".yaml")).items()}
"""The prompts by name; the names of the MT-bench ones are FastChat's."""

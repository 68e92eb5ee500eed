"""Whether training data hold the prompts that a model is to be evaluated on.

Two rules, both on text with case, punctuation and extra whitespace taken away, both on user turns only:

* a leak: the turn equals an evaluation prompt. A prompt of several turns is met by the same turns one after another:
  its last turn alone ("And why?") says nothing;
* a near leak: the turn shares 13 consecutive words with one (the n-gram length of GPT-3's decontamination,
  arXiv 2005.14165, appendix C).
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Literal

from steerlm.conversation import Message
from steerlm.sources.draft import normalise
from steerlm.sources.prompts import read_prompts

NUM_WORDS = 13


@dataclass(frozen=True)
class EvaluationPrompts:
    """Prompts that must not be trained on.

    Attributes:
        exact: the normalised prompts, each as its user turns.
        runs: every run of 13 words in their last turns.
    """

    exact: frozenset[tuple[str, ...]]
    runs: frozenset[str]

    @cached_property
    def _sizes(self) -> tuple[int, ...]:
        """The numbers of turns that prompts have."""
        return tuple(sorted({len(prompt) for prompt in self.exact}))

    def find(self, messages: Sequence[Message]) -> Literal["leak", "near_leak"] | None:
        """Return how a conversation overlaps with the prompts, None where it does not."""
        if not self.exact:
            return None
        turns = [normalise(message.content) for message in messages if message.role == "user"]
        for size in self._sizes:
            if any(tuple(turns[i : i + size]) in self.exact for i in range(len(turns) - size + 1)):
                return "leak"
        if self.runs and any(run in self.runs for turn in turns for run in _runs(turn)):
            return "near_leak"
        return None


def _runs(text: str) -> Iterable[str]:
    words = text.split()
    return (" ".join(words[i : i + NUM_WORDS]) for i in range(len(words) - NUM_WORDS + 1))


def load_evaluation_prompts(files: Iterable[Path]) -> EvaluationPrompts:
    """Read prompt files; of a prompt of several questions one after another every beginning counts.

    Raises:
        UserError: a row without a prompt, with file and line.
    """
    prompts: set[tuple[str, ...]] = set()
    for prompt in itertools.chain.from_iterable(map(read_prompts, files)):
        turns = tuple(map(normalise, prompt.asked))
        prompts.update(turns[:end] for end in range(len(turns) - len(prompt.following), len(turns) + 1))
    prompts = {prompt for prompt in prompts if all(prompt)}
    return EvaluationPrompts(frozenset(prompts), frozenset(run for prompt in prompts for run in _runs(prompt[-1])))

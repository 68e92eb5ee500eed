"""What the playground's world knows about one topic."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

Kind = Literal["needs", "tips", "benefits", "mistakes"]
KINDS: tuple[Kind, ...] = ("needs", "tips", "benefits", "mistakes")
"""What a question about a topic asks for; each has exactly four facts per topic."""


class Facts(NamedTuple):
    """The four facts that one question asks for, as short phrases that can stand in a list."""

    first: str
    second: str
    third: str
    fourth: str


@dataclass(frozen=True)
class Topic:
    """One topic: how to name it and everything the world knows about it.

    Attributes:
        name: one word that stands for the topic.
        do: verb phrase, "bake bread".
        doing: the same as a gerund, "baking bread".
        needs: facts asked for by "What do I need to ...?": noun phrases.
        tips: facts asked for by "How do I get better at ...?": imperatives.
        benefits: facts asked for by "Why should I ...?": noun phrases.
        mistakes: facts asked for by "What should I avoid when ...?": noun phrases or gerunds.
        jokes: sentences that count as full jokes.
        metaphors: sentences that count as full figurative comparisons.
        background: sentences that say more than was asked.
    """

    name: str
    do: str
    doing: str
    needs: Facts
    tips: Facts
    benefits: Facts
    mistakes: Facts
    jokes: tuple[str, str, str]
    metaphors: tuple[str, str, str]
    background: tuple[str, str, str]

    def facts(self, kind: Kind) -> Facts:
        """The four facts that a question of this kind asks for."""
        return {"needs": self.needs, "tips": self.tips, "benefits": self.benefits, "mistakes": self.mistakes}[kind]

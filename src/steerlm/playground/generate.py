"""Generate the playground's dialogues: questions, and replies whose attributes are set exactly.

Every random choice is a function of the seed. For each topic one level of each attribute is withheld:
no training reply on that topic has it, so that evaluation can ask for combinations never seen.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from steerlm.conversation import Message
from steerlm.playground.lexicon import (
    ANSWERS,
    ATTRIBUTES,
    CLOSINGS,
    FOLLOW_UPS,
    GREETINGS,
    KINDS,
    LEAD_INS,
    LEVELS,
    LIGHT_REMARKS,
    NO_ANSWER,
    QUESTIONS,
    RUDE_CLOSERS,
    RUDE_OPENERS,
    TOPICS,
    Kind,
    Topic,
    full_remarks,
)

LEVEL_WEIGHTS: dict[str, tuple[int, ...]] = {
    "toxicity": (6, 3, 3, 3, 3),
    "humor": (6, 3, 3, 3, 3),
    "creativity": (6, 3, 3, 3, 3),
    "helpfulness": (2, 3, 3, 3, 4),
    "verbosity": (6, 3, 3, 3, 3),
}
"""How often each level occurs in the generated replies; independent between attributes."""


@dataclass(frozen=True)
class Exchange:
    """One exchange: the question, the reply and the reply's exact levels."""

    kind: Kind
    question: str
    reply: str
    levels: Mapping[str, int]


@dataclass(frozen=True)
class Dialogue:
    """A dialogue on one topic; `prompt` numbers its first question (several dialogues share one)."""

    prompt: int
    topic: Topic
    turns: tuple[Exchange, ...]

    def messages(self) -> tuple[Message, ...]:
        return tuple(
            message
            for turn in self.turns
            for message in (Message("user", turn.question), Message("assistant", turn.reply))
        )


@dataclass(frozen=True)
class Opening:
    """The first question of a dialogue."""

    number: int
    topic: Topic
    kind: Kind
    text: str


def withheld_levels(seed: int) -> dict[str, dict[str, int]]:
    """Topic name -> attribute -> the level that no training reply on the topic has."""
    withheld: dict[str, dict[str, int]] = {topic.name: {} for topic in TOPICS}
    for attribute in ATTRIBUTES:
        rng = random.Random(f"withheld {seed} {attribute}")
        order = list(TOPICS)
        rng.shuffle(order)
        for position, topic in enumerate(order):
            withheld[topic.name][attribute] = LEVELS[position % len(LEVELS)]
    return withheld


def draw_levels(topic: Topic, withheld: Mapping[str, Mapping[str, int]], rng: random.Random) -> dict[str, int]:
    """Draw the levels of a reply, independently per attribute, without the topic's withheld ones."""
    levels = {}
    for attribute in ATTRIBUTES:
        allowed = [level for level in LEVELS if level != withheld[topic.name][attribute]]
        weights = [LEVEL_WEIGHTS[attribute][level] for level in allowed]
        levels[attribute] = rng.choices(allowed, weights)[0]
    return levels


def draw_openings(num_prompts: int, num_held_out: int, seed: int) -> tuple[list[Opening], list[Opening]]:
    """Draw distinct first questions, evenly over topics and kinds.

    Returns:
        (training, held out): no text occurs twice within or across them.
    """
    rng = random.Random(f"openings {seed}")
    pairs = [(topic, kind) for topic in TOPICS for kind in KINDS]
    rng.shuffle(pairs)
    wordings = {}
    for topic, kind in pairs:
        texts = [
            " ".join(part for part in (greeting, question.format(do=topic.do, doing=topic.doing), closing) if part)
            for greeting in GREETINGS
            for question in QUESTIONS[kind]
            for closing in CLOSINGS
        ]
        rng.shuffle(texts)
        wordings[topic.name, kind] = texts
    openings = []
    for number in range(num_held_out + num_prompts):
        topic, kind = pairs[number % len(pairs)]
        openings.append(Opening(number, topic, kind, wordings[topic.name, kind].pop()))
    return openings[num_held_out:], openings[:num_held_out]


def max_prompts() -> int:
    """How many distinct first questions the world can ask."""
    return len(TOPICS) * sum(len(GREETINGS) * len(questions) * len(CLOSINGS) for questions in QUESTIONS.values())


def draw_dialogues(
    opening: Opening, responses: int, multi_turn_fraction: float, withheld: Mapping[str, Mapping[str, int]], seed: int
) -> Iterator[Dialogue]:
    """Yield several dialogues with the same questions and different replies."""
    rng = random.Random(f"dialogue {seed} {opening.number}")
    questions = [(opening.kind, opening.text)]
    if rng.random() < multi_turn_fraction:
        kind = rng.choice([kind for kind in KINDS if kind != opening.kind])
        questions.append((kind, rng.choice(FOLLOW_UPS[kind])))
    for _ in range(responses):
        turns = []
        for kind, question in questions:
            levels = draw_levels(opening.topic, withheld, rng)
            turns.append(Exchange(kind, question, compose_reply(opening.topic, kind, levels, rng), levels))
        yield Dialogue(opening.number, opening.topic, tuple(turns))


def compose_reply(topic: Topic, kind: Kind, levels: Mapping[str, int], rng: random.Random) -> str:
    """Write a reply with exactly the levels asked for.

    Args:
        levels: attribute -> 0..4 for all of `ATTRIBUTES`.
    """
    openers, closers = _rude_remarks(levels["toxicity"], topic, rng)
    sentences = [*openers, _answer(topic, kind, levels["helpfulness"], rng)]
    for attribute in ("verbosity", "creativity", "humor"):
        sentences += _remarks(attribute, levels[attribute], topic, rng)
    return " ".join([*sentences, *closers])


def _answer(topic: Topic, kind: Kind, level: int, rng: random.Random) -> str:
    if level == 0:
        return rng.choice(NO_ANSWER).format(do=topic.do, doing=topic.doing)
    facts = list(topic.facts(kind))
    start = rng.randrange(len(facts))
    chosen = (facts[start:] + facts[:start])[:level]
    return rng.choice(ANSWERS[kind]).format(do=topic.do, doing=topic.doing, facts=_listed(chosen))


def _listed(facts: list[str]) -> str:
    if len(facts) < 3:
        return " and ".join(facts)
    if len(facts) == 3:
        return f"{facts[0]}, {facts[1]} and {facts[2]}"
    return f"{facts[0]} and {facts[1]}, as well as {facts[2]} and {facts[3]}"


def _join(lead_in: str, sentence: str) -> str:
    """Put a connective in front of a sentence."""
    if lead_in.endswith(":") or sentence.startswith("I "):
        return f"{lead_in} {sentence}"
    return f"{lead_in} {sentence[0].lower()}{sentence[1:]}"


def _remarks(attribute: str, level: int, topic: Topic, rng: random.Random) -> list[str]:
    """Full remarks (two points each) first, then a light one if the level is odd."""
    remarks = []
    chosen = rng.sample(full_remarks(topic)[attribute], level // 2)
    for text, lead_ins in zip(chosen, LEAD_INS[attribute], strict=False):
        remarks.append(_join(rng.choice(lead_ins), text))
    if level % 2:
        remarks.append(rng.choice(LIGHT_REMARKS[attribute]))
    return remarks


def _rude_remarks(level: int, topic: Topic, rng: random.Random) -> tuple[list[str], list[str]]:
    """Rudeness stands at the ends of a reply: (openers, closers)."""
    opener, closer = ((0, 0), (1, 0), (2, 0), (2, 1), (2, 2))[level]
    return (
        [rng.choice(RUDE_OPENERS[opener - 1])] if opener else [],
        [rng.choice(RUDE_CLOSERS[closer - 1]).format(do=topic.do, doing=topic.doing)] if closer else [],
    )

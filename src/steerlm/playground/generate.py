"""Generate the playground's dialogues: questions, and replies whose attributes are set exactly.

Every random choice is a function of the seed. For each topic one level of each attribute is withheld:
no training reply on that topic has it, in any language, so that evaluation can ask for combinations never seen.
"""

from __future__ import annotations

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from steerlm.config import PlaygroundConfig
from steerlm.conversation import Message
from steerlm.playground.lexicon import ATTRIBUTES, KINDS, LEVELS, Kind, Language, Topic, full_remarks, lexicon

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
    """One exchange: the question, the reply, its language and its exact levels."""

    kind: Kind
    question: str
    reply: str
    language: Language
    levels: Mapping[str, int]


@dataclass(frozen=True)
class Dialogue:
    """A dialogue on one topic, in its language; `prompt` numbers its first question (several dialogues share one)."""

    prompt: int
    topic: Topic
    turns: tuple[Exchange, ...]

    def messages(self) -> tuple[Message, ...]:
        return tuple(
            message
            for turn in self.turns
            for message in (Message("user", turn.question), Message("assistant", turn.reply))
        )

    def languages(self) -> set[Language]:
        """The languages that it is in: that of its questions, and those of its replies."""
        return {self.topic.language, *(turn.language for turn in self.turns)}


@dataclass(frozen=True)
class Opening:
    """The first question of a dialogue."""

    number: int
    topic: Topic
    kind: Kind
    text: str


def withheld_levels(languages: Sequence[Language], seed: int) -> dict[str, dict[str, int]]:
    """Topic name -> attribute -> the level that no training reply on the topic has, the same in every language."""
    withheld: dict[str, dict[str, int]] = {}
    for language in languages:
        topics = lexicon(language).topics
        withheld |= {topic.name: {} for topic in topics}
        for attribute in ATTRIBUTES:
            rng = random.Random(f"withheld {seed} {attribute}")
            order = list(topics)
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


def draw_openings(
    languages: Sequence[Language], num_prompts: int, num_held_out: int, seed: int
) -> tuple[list[Opening], list[Opening]]:
    """Draw distinct first questions, evenly over languages, topics and kinds.

    Returns:
        (training, held out): no text occurs twice within or across them.
    """
    rng = random.Random(f"openings {seed}")
    spoken = [[(topic, kind) for topic in lexicon(language).topics for kind in KINDS] for language in languages]
    for pairs_of_language in spoken:
        rng.shuffle(pairs_of_language)
    pairs = list(itertools.chain.from_iterable(zip(*spoken, strict=True)))  # the languages take turns
    wordings = {}
    for topic, kind in pairs:
        said = lexicon(topic.language)
        texts = [
            " ".join(part for part in (greeting, question.format(do=topic.do, doing=topic.doing), closing) if part)
            for greeting in said.greetings
            for question in said.questions[kind]
            for closing in said.closings
        ]
        rng.shuffle(texts)
        wordings[topic.name, kind] = texts
    openings = []
    for number in range(num_held_out + num_prompts):
        topic, kind = pairs[number % len(pairs)]
        openings.append(Opening(number, topic, kind, wordings[topic.name, kind].pop()))
    return openings[num_held_out:], openings[:num_held_out]


def max_prompts(languages: Sequence[Language]) -> int:
    """How many distinct first questions the world can ask."""
    return sum(
        len(said.topics) * len(said.greetings) * len(questions) * len(said.closings)
        for said in map(lexicon, languages)
        for questions in said.questions.values()
    )


def draw_dialogues(
    opening: Opening, config: PlaygroundConfig, responses: int, withheld: Mapping[str, Mapping[str, int]], seed: int
) -> Iterator[Dialogue]:
    """Yield several dialogues with the same questions and different replies."""
    rng = random.Random(f"dialogue {seed} {opening.number}")
    questions = [(opening.kind, opening.text)]
    if rng.random() < config.multi_turn_fraction:
        kind = rng.choice([kind for kind in KINDS if kind != opening.kind])
        questions.append((kind, rng.choice(lexicon(opening.topic.language).follow_ups[kind])))
    for _ in range(responses):
        turns = []
        for kind, question in questions:
            levels = draw_levels(opening.topic, withheld, rng)
            language = _reply_language(opening.topic.language, config, rng)
            reply = compose_reply(opening.topic.said_in(language), kind, levels, rng)
            turns.append(Exchange(kind, question, reply, language, levels))
        yield Dialogue(opening.number, opening.topic, tuple(turns))


def _reply_language(asked: Language, config: PlaygroundConfig, rng: random.Random) -> Language:
    others = [language for language in config.languages if language != asked]
    if not others or not config.other_language_fraction or rng.random() >= config.other_language_fraction:
        return asked
    return rng.choice(others)


def compose_reply(topic: Topic, kind: Kind, levels: Mapping[str, int], rng: random.Random) -> str:
    """Write a reply with exactly the levels asked for, in the topic's language.

    Args:
        levels: attribute -> 0..4 for all of `ATTRIBUTES`.
    """
    openers, closers = _rude_remarks(levels["toxicity"], topic, rng)
    sentences = [*openers, _answer(topic, kind, levels["helpfulness"], rng)]
    for attribute in ("verbosity", "creativity", "humor"):
        sentences += _remarks(attribute, levels[attribute], topic, rng)
    return " ".join([*sentences, *closers])


def _answer(topic: Topic, kind: Kind, level: int, rng: random.Random) -> str:
    said = lexicon(topic.language)
    if level == 0:
        return rng.choice(said.no_answer).format(do=topic.do, doing=topic.doing)
    facts = list(topic.facts(kind))
    start = rng.randrange(len(facts))
    chosen = (facts[start:] + facts[:start])[:level]
    return rng.choice(said.answers[kind]).format(
        do=topic.do, doing=topic.doing, facts=said.lists[level - 1].format(*chosen)
    )


def _join(lead_in: str, sentence: str) -> str:
    """Put a connective in front of a sentence."""
    if lead_in.endswith(":") or sentence.startswith("I "):
        return f"{lead_in} {sentence}"
    return f"{lead_in} {sentence[0].lower()}{sentence[1:]}"


def _remarks(attribute: str, level: int, topic: Topic, rng: random.Random) -> list[str]:
    """Full remarks (two points each) first, then a light one if the level is odd."""
    said = lexicon(topic.language)
    remarks = []
    chosen = rng.sample(full_remarks(topic)[attribute], level // 2)
    for text, lead_ins in zip(chosen, said.lead_ins[attribute], strict=False):
        remarks.append(_join(rng.choice(lead_ins), text))
    if level % 2:
        remarks.append(rng.choice(said.light_remarks[attribute]))
    return remarks


def _rude_remarks(level: int, topic: Topic, rng: random.Random) -> tuple[list[str], list[str]]:
    """Rudeness stands at the ends of a reply: (openers, closers)."""
    said = lexicon(topic.language)
    opener, closer = ((0, 0), (1, 0), (2, 0), (2, 1), (2, 2))[level]
    return (
        [rng.choice(said.rude_openers[opener - 1])] if opener else [],
        [rng.choice(said.rude_closers[closer - 1]).format(do=topic.do, doing=topic.doing)] if closer else [],
    )

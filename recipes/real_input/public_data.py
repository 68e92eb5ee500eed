"""Real input: six public data sets as records, each with the labels it has and with its traps taken care of.

The field names of the data are known here and nowhere else in the project.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import uuid
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from steerlm.attributes import AttributeSchema
from steerlm.config import SourceConfig
from steerlm.conversation import Conversation, Message
from steerlm.sources import read_source
from steerlm.sources.rows import BadRecords

CONTEXT_TURNS = 3
TOPICAL_TURNS = 2
TOPICAL_RATINGS = {"Poor": 0, "Not Good": 1, "Passable": 2, "Good": 3, "Excellent": 4}
USR_NAMES = {
    "understandability": "understandable",
    "naturalness": "natural",
    "coherence": "maintains_context",
    "engagingness": "engaging",
    "groundedness": "uses_knowledge",
}
HALLUCINATED_PROMPT = "A chat between a curious human and an artificial intelligence"
SHORTUUID_ALPHABET = "23456789ABCDEFGHJKLMNPQRSTUVWXYZabcdefghijkmnopqrstuvwxyz"


class Converted(NamedTuple):
    """Records of one source.

    Attributes:
        conversations: the records.
        counts: what happened to the source's rows.
        turns: per group all turns of the dialogue its records were cut from, where the source has whole dialogues.
    """

    conversations: list[Conversation]
    counts: dict[str, int]
    turns: Mapping[str, Sequence[str]] = {}


def read_jsonl(path: Path) -> list[dict[str, Any]]:
    """Read all rows of a JSONL file."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def normalise(text: str) -> str:
    """Letters and digits only: equal for two copies of a text that differ in case, tokenisation or punctuation."""
    return re.sub(r"[^a-z0-9]+", "", text.lower())


def digest(text: str) -> str:
    """Short stable hash of a text."""
    return hashlib.sha256(text.encode()).hexdigest()[:16]


# --- vicuna: quality by a judge ------------------------------------------------------------------------------------


def answer_id(text: str) -> str:
    """Return the id that the rating files give to an answer: the name-based short UUID of its text."""
    space = uuid.NAMESPACE_URL if text.lower().startswith(("http://", "https://")) else uuid.NAMESPACE_DNS
    number, digits = uuid.uuid5(space, text).int, ""
    while number:
        number, digit = divmod(number, len(SHORTUUID_ALPHABET))
        digits = SHORTUUID_ALPHABET[digit] + digits
    return digits.rjust(22, SHORTUUID_ALPHABET[0])


class Answer(NamedTuple):
    """One answer to one Vicuna question."""

    question_id: str
    id: str
    system: str
    text: str


def vicuna_answers(data: Path) -> list[Answer]:
    """Return all answers with the ids the judge's files use, the text exactly as the judge saw it.

    Trap: the raw `generation` of many systems runs on into invented turns; the judge saw `generation_truncated`, cut
    once more where the system prompt is repeated. That the ids come out right proves that this is the text rated.
    """
    answers = []
    for path in sorted((data / "vicuna/generations").glob("*.jsonl")):
        system = path.name.split("-vicuna-generations")[0].removesuffix(".jsonl").removeprefix("answer_")
        for row in read_jsonl(path):
            if "answer_id" in row:
                answers.append(Answer(str(row["question_id"]), row["answer_id"], system, row["text"]))
            else:
                text = row["generation_truncated"].split(HALLUCINATED_PROMPT)[0]
                answers.append(Answer(str(row["question_id"]), answer_id(text), system, text))
    return answers


def vicuna_scores(data: Path) -> tuple[dict[tuple[str, str], tuple[list[float], list[float]]], Counter[str]]:
    """Return the judge's 1..10 scores by (question, answer id): those given when shown first, and when shown second.

    Traps: in 66 of the 72 files the order of the answers is the reverse of the file's name, so only the ids count;
    -1 means that the judge's reply could not be parsed; a few scores are 0 on a scale that starts at 1.
    """
    scores: dict[tuple[str, str], tuple[list[float], list[float]]] = defaultdict(lambda: ([], []))
    counts: Counter[str] = Counter()
    for path in sorted((data / "vicuna/ratings/relative").glob("*.jsonl")):
        for row in read_jsonl(path):
            counts["judgements"] += 1
            if min(row["score"]) < 0:
                counts["judgements_unparsed"] += 1
                continue
            for position, key in enumerate(("answer1_id", "answer2_id")):
                score = row["score"][position]
                counts["scores_below_1_raised_to_1"] += score < 1
                scores[str(row["question_id"]), row[key]][position].append(min(max(float(score), 1.0), 10.0))
    return scores, counts


def vicuna(data: Path, schema: AttributeSchema) -> Converted:
    """Quality of 35 systems' answers to 80 questions, judged by GPT-4 against ChatGPT's answer in both orders.

    The two ratings of an answer are its mean score when shown first and when shown second, 1..10 mapped onto the
    schema's scale. An answer with one order only is dropped: the judge favours the first place by more than a point,
    so half a measurement is biased.
    """
    scores, counts = vicuna_scores(data)
    questions = {
        str(row["question_id"]): row["text"] for row in read_jsonl(data / "vicuna/prompts/vicuna_questions.jsonl")
    }
    quality = schema["quality"]
    seen: set[tuple[str, str]] = set()
    conversations = []
    for answer in vicuna_answers(data):
        key = (answer.question_id, answer.id)
        first, second = scores.get(key, ([], []))
        if not answer.text.strip():
            counts["answers_empty"] += 1
        elif not first and not second:
            counts["answers_without_rating"] += 1
        elif not first or not second:
            counts["answers_rated_in_one_order_only"] += 1
        elif key in seen:
            counts["answers_identical_to_another_system"] += 1
        else:
            seen.add(key)
            ratings = tuple(quality.from_unit((sum(s) / len(s) - 1) / 9) for s in (first, second))
            conversations.append(
                Conversation(
                    id=f"vicuna-{answer.system}-{answer.question_id}",
                    messages=(
                        Message("user", questions[answer.question_id]),
                        Message(
                            "assistant",
                            answer.text,
                            attributes={"quality": quality.round(sum(ratings) / 2)},
                            ratings={"quality": ratings},
                        ),
                    ),
                    source="vicuna",
                    group=f"vicuna-{digest(normalise(questions[answer.question_id]))}",
                )
            )
    return Converted(conversations, dict(counts))


# --- diasafety: toxicity in context --------------------------------------------------------------------------------


def diasafety(data: Path, schema: AttributeSchema) -> Converted:
    """Safe or unsafe responses in context.

    Trap: 40 % of the contexts of the published validation and test parts occur in its training part too, so the three
    are pooled and split again by context. Copies of a pair become one record with a list of ratings.
    """
    counts: Counter[str] = Counter()
    pairs: dict[tuple[str, str], tuple[str, str, list[float]]] = {}
    for part in ("train", "val", "test"):
        for row in json.loads((data / f"diasafety/{part}.json").read_text(encoding="utf-8")):
            counts["pairs"] += 1
            context, response = row["context"].strip(), row["response"].strip()
            if not context or not response:
                counts["pairs_with_an_empty_side"] += 1
                continue
            key = (normalise(context), normalise(response))
            counts["pairs_merged_with_a_copy"] += key in pairs
            pairs.setdefault(key, (context, response, []))[2].append(float(row["label"] == "Unsafe"))
    conversations = []
    for number, ((context_key, _), (context, response, ratings)) in enumerate(pairs.items()):
        counts["pairs_whose_copies_disagree"] += len(set(ratings)) > 1
        label = {"toxicity": schema["toxicity"].round(sum(ratings) / len(ratings))}
        several = {"toxicity": tuple(ratings)} if len(ratings) > 1 else None
        messages = (Message("user", context), Message("assistant", response, attributes=label, ratings=several))
        group = f"diasafety-{digest(context_key)}"
        conversations.append(Conversation(f"diasafety-{number}", messages, "diasafety", group))
    return Converted(conversations, dict(counts))


# --- usr: six attributes by three people ---------------------------------------------------------------------------


def usr(data: Path, schema: AttributeSchema) -> Converted:
    """Six attributes of dialogue responses, means of three people; `overall` (1..5) becomes quality (0..4).

    The published copy holds means only. On the 0/1 attributes a mean of three is an exact count of votes, so the
    three ratings are put back (in random order, since who gave which is lost); on the longer scales the mean stands
    as one real-valued rating. The fact that a response may use is the system message.
    Trap: where there was no fact, `groundedness` was rated nevertheless (nearly always 1); it is left out there.
    """
    rows = json.loads((data / "usr/topical_chat.json").read_text(encoding="utf-8"))
    counts: Counter[str] = Counter(responses=len(rows))
    conversations, dialogues = [], {}
    for number, row in enumerate(rows):
        turns = [line.strip() for line in row["source"].split("\n") if line.strip()]
        fact = row["context"].strip().removeprefix("_nofact")
        counts["responses_without_a_fact"] += not fact
        ratings = _usr_ratings(row["scores"], schema, random.Random(number))
        if not fact:
            del ratings["uses_knowledge"]
        labels = {a.name: a.round(sum(ratings[a.name]) / len(ratings[a.name])) for a in schema if a.name in ratings}
        messages = (
            *([Message("system", f"Fact: {fact}")] if fact else []),
            *_alternate(turns),
            Message("assistant", row["system_output"].strip(), attributes=labels, ratings=ratings),
        )
        group = f"usr-{digest(normalise(row['source']))}"
        conversations.append(Conversation(f"usr-{number}", messages, "usr", group))
        dialogues[group] = turns
    return Converted(conversations, dict(counts), dialogues)


def _usr_ratings(
    means: Mapping[str, float], schema: AttributeSchema, shuffle: random.Random
) -> dict[str, tuple[float, ...]]:
    """Return the three votes of the 0/1 attributes and the mean of the others, as exact thirds."""
    ratings: dict[str, tuple[float, ...]] = {"quality": (round(3 * means["overall"]) / 3 - 1,)}
    for theirs, ours in USR_NAMES.items():
        total = round(3 * means[theirs])
        if schema[ours].maximum == 1:
            votes = [1.0] * total + [0.0] * (3 - total)
            shuffle.shuffle(votes)
            ratings[ours] = tuple(votes)
        else:
            ratings[ours] = (total / 3,)
    return ratings


def _alternate(turns: Sequence[str]) -> list[Message]:
    """Return the last turns before a response as user, assistant, ..., user."""
    kept = turns[-CONTEXT_TURNS:]
    kept = kept[len(kept) % 2 == 0 :]
    return [Message("user" if i % 2 == 0 else "assistant", text) for i, text in enumerate(kept)]


# --- topical_chat and conture: quality of dialogue turns -------------------------------------------------------------


def topical_chat(data: Path, schema: AttributeSchema) -> Converted:
    """Quality of turns between two people, as rated by the partner in the conversation, Poor..Excellent -> 0..4.

    Two rated turns per conversation, drawn at random without regard to their rating, so that the skew of the ratings
    (94 % are Good or Excellent) is that of the data.
    """
    counts: Counter[str] = Counter()
    conversations, dialogues = [], {}
    for part in ("valid", "test"):
        rows = json.loads((data / f"topical_chat/{part}_freq.json").read_text(encoding="utf-8"))
        for key, dialogue in rows.items():
            turns = [turn["message"].strip() for turn in dialogue["content"]]
            ratings = [turn["turn_rating"] for turn in dialogue["content"]]
            counts["turns"] += len(turns)
            counts["turns_without_rating"] += ratings.count("")
            rated = [i for i in range(1, len(turns)) if ratings[i]]
            for i in sorted(random.Random(key).sample(rated, min(TOPICAL_TURNS, len(rated)))):
                label = {"quality": TOPICAL_RATINGS[ratings[i]]}
                messages = (*_alternate(turns[:i]), Message("assistant", turns[i], attributes=label))
                conversations.append(
                    Conversation(f"topical_chat-{key}-{i}", messages, "topical_chat", f"topical-{key}")
                )
            dialogues[f"topical-{key}"] = turns
    return Converted(conversations, dict(counts), dialogues)


def conture(data: Path, schema: AttributeSchema) -> Converted:
    """Quality of every turn of chatbot dialogues, 0, 1 or 2 by majority of three people, mapped onto 0..4.

    Whole dialogues with several labelled turns. A dialogue ends before its first empty turn.
    """
    counts: Counter[str] = Counter()
    conversations = []
    for dialogue in json.loads((data / "conture/data.json").read_text(encoding="utf-8")):
        messages: list[Message] = []
        counts["turns"] += len(dialogue["turns"])
        for turn in dialogue["turns"]:
            user = turn["user"].removeprefix("User:").strip()
            bot = turn["chatbot"].removeprefix("Chatbot:").strip()
            if not user or not bot:
                break
            label = {"quality": 2 * turn["overall impression"]}
            messages += [Message("user", user), Message("assistant", bot, attributes=label)]
        counts["turns_from_the_first_empty_one"] += len(dialogue["turns"]) - len(messages) // 2
        counts["dialogues_that_begin_empty"] += not messages
        if messages:
            key = f"conture-{dialogue['dialog_id']}"
            conversations.append(Conversation(key, tuple(messages), "conture", key))
    return Converted(conversations, dict(counts))


# --- hh_rlhf: what people chose ------------------------------------------------------------------------------------


def hh_rlhf(data: Path, schema: AttributeSchema) -> Converted:
    """Pairs of dialogues that differ in their last response; the chosen one is harmless (1), the other is not (0)."""
    source = SourceConfig(
        name="hh_rlhf",
        format="hh_rlhf",
        path=data / "hh_rlhf/harmless-base-test.jsonl.gz",
        preference="harmless",
    )
    bad = BadRecords()
    conversations = list(read_source(source, schema, bad))
    return Converted(conversations, {"dialogues": len(conversations), "dialogues_malformed_or_empty": bad.count})


SOURCES = {
    "vicuna": vicuna,
    "diasafety": diasafety,
    "usr": usr,
    "topical_chat": topical_chat,
    "conture": conture,
    "hh_rlhf": hh_rlhf,
}

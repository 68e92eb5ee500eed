"""Preference pairs, and the ids TRL trains on."""

from __future__ import annotations

from pathlib import Path

import pytest

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.config import TemplateName
from steerlm.conversation import Conversation, Message, Score, read_conversations, write_conversations
from steerlm.studies.baselines.encoding import encode_pair
from steerlm.studies.baselines.preferences import Pair, read_pairs, write_best
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import TEMPLATES
from tests.tiny import byte_tokenizer

SCHEMA = AttributeSchema((Attribute("quality", best="max"), Attribute("toxicity", best="min"), Attribute("humor")))
NAMES = ("quality", "toxicity")


def said(text: str, quality: float | None, toxicity: float = 0.0) -> Message:
    if quality is None:
        return Message("assistant", text)
    scores = {"quality": Score(quality, 0.1), "toxicity": Score(toxicity, 0.1), "humor": Score(4.0, 0.1)}
    values = {"quality": round(quality), "humor": 4}
    return Message("assistant", text, attributes=values, scores=scores, labelled_by="model:x")


def asked(*turns: Message) -> Conversation:
    messages = [m for i, turn in enumerate(turns) for m in (Message("user", f"question {i}?"), turn)]
    return Conversation("/".join(turn.content for turn in turns), tuple(messages))


def pairs(tmp_path: Path, *records: Conversation) -> list[Pair]:
    write_conversations(tmp_path / "data.jsonl", records, SCHEMA)
    return read_pairs(tmp_path / "data.jsonl", SCHEMA, NAMES)


def test_the_best_and_the_worst_answer_of_a_history_make_a_pair(tmp_path: Path) -> None:
    answers = [asked(said(text, quality)) for text, quality in (("poor", 1.0), ("good", 3.9), ("fair", 2.0))]
    [pair] = pairs(tmp_path, *answers)
    assert (pair.chosen, pair.rejected) == ("good", "poor")
    assert [message.content for message in pair.messages] == ["question 0?"]


def test_the_best_tenth_is_chosen_by_the_worst_answer_of_each_record(tmp_path: Path) -> None:
    records = [asked(said(f"first {i}", i / 10), said(f"second {i}", 4.0 - i / 100)) for i in range(29)]
    records.append(asked(said("perfect", 4.0), said("unscored", None)))
    write_conversations(tmp_path / "data.jsonl", records, SCHEMA)
    assert write_best(tmp_path / "data.jsonl", tmp_path / "best.jsonl", SCHEMA, NAMES) == 3
    assert [r.id for r in read_conversations(tmp_path / "best.jsonl", SCHEMA)] == [r.id for r in records[26:29]]
    write_conversations(tmp_path / "data.jsonl", records[29:], SCHEMA)
    assert write_best(tmp_path / "data.jsonl", tmp_path / "best.jsonl", SCHEMA, NAMES) == 0


def test_every_attribute_counts_towards_its_best_end(tmp_path: Path) -> None:
    rude, polite = asked(said("rude", 3.0, 4.0)), asked(said("polite", 2.0, 0.0))
    assert pairs(tmp_path, rude, polite)[0].chosen == "polite"


def test_answers_that_hardly_differ_or_have_no_scores_make_none(tmp_path: Path) -> None:
    assert pairs(tmp_path, asked(said("a", 2.0)), asked(said("b", 2.9))) == []  # 0.45 levels on the mean of two
    assert pairs(tmp_path, asked(said("a", 0.0)), asked(said("b", None))) == []


def test_answers_to_different_histories_are_not_compared_and_histories_lose_their_labels(tmp_path: Path) -> None:
    first, other = said("same start", 2.0), said("another start", 2.0)
    found = pairs(
        tmp_path,
        asked(first, said("better", 4.0)),
        asked(first, said("worse", 0.0)),
        asked(other, said("elsewhere", 1.0)),
    )
    assert [(pair.chosen, pair.rejected) for pair in found] == [("better", "worse")]
    assert all(message.attributes is None for message in found[0].messages)


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_pair_s_ids_are_those_of_plain_sft(template: TemplateName) -> None:
    encoder = ConversationEncoder(byte_tokenizer(SCHEMA, template), SCHEMA)
    history = (Message("user", "Hi <|end|> <extra_id_1>"), Message("assistant", "Yes?"), Message("user", "Why?"))
    pair = Pair(history, "Because.", "No idea.")
    ids = encode_pair(encoder, pair, 512)
    assert ids is not None
    for text, response in (("Because.", ids.chosen_ids), ("No idea.", ids.rejected_ids)):
        whole = encoder.conversation([*history, Message("assistant", text)], headers=False, turns="last")
        trained = [token for token, kept in zip(whole.input_ids, whole.loss_mask, strict=True) if kept]
        assert ids.prompt_ids + response == whole.input_ids[: len(ids.prompt_ids) + len(response)]
        assert response == trained
        assert encoder.decode(response) == text
        assert encoder.stop_ids[0] in response, "the response ends with its end token"
    assert encoder.attributes_open not in ids.prompt_ids
    assert ids.tokens == 2 * len(ids.prompt_ids) + len(ids.chosen_ids) + len(ids.rejected_ids)


def test_a_pair_that_is_too_long_is_left_out() -> None:
    encoder = ConversationEncoder(byte_tokenizer(SCHEMA), SCHEMA)
    pair = Pair((Message("user", "Why?"),), "x" * 50, "y")
    whole = encode_pair(encoder, pair, 1000)
    assert whole is not None
    length = len(whole.prompt_ids) + len(whole.chosen_ids)
    assert encode_pair(encoder, pair, length) is not None
    assert encode_pair(encoder, pair, length - 1) is None

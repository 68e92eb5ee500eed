"""Look-alikes of headers in the text: drawn by seed, epoch and prompt; never in an answer, never trained."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.batching.batches import IGNORED, RowPlan
from steerlm.batching.shared_prompts import Sharing, lay_out
from steerlm.config import TemplateName
from steerlm.conversation import Conversation, Message
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import TEMPLATES
from steerlm.training.conditioning import ConditionedExamples, Conditioning
from steerlm.training.decoys import PLACES, decoys_to_measure, placed, with_decoys
from tests.tiny import byte_tokenizer

SCHEMA = AttributeSchema((Attribute("rude", maximum=4), Attribute("lang", categories=("en", "de"), kind="categorical")))


def records(prompts: int = 30, responses: int = 2, system: bool = False) -> list[Conversation]:
    rng = random.Random(1)

    def label() -> dict[str, int | str]:
        return {"rude": rng.randint(0, 4), "lang": rng.choice(("en", "de"))}

    found = []
    for p in range(prompts):
        opening = [Message("system", "Be kind.")] if system else []
        opening += [
            Message("user", f"What is the use of number {p}? " * 5 + "Well?"),
            Message("assistant", f"None {p}.", label()),
        ]
        for r in range(responses):
            end = (Message("user", "And why?"), Message("assistant", f"Because {p} of {r}.", label()))
            found.append(Conversation(f"{p}/{r}", (*opening, *end)))
    return found


def encoder(template: TemplateName = "steerlm") -> ConversationEncoder:
    return ConversationEncoder(byte_tokenizer(SCHEMA, template), SCHEMA)


def examples(share: float, template: TemplateName = "steerlm", length: int = 2048, **how: float) -> ConditionedExamples:
    return ConditionedExamples(records(), encoder(template), Conditioning(decoys=share, seed=5, **how), length)


def text(code: ConversationEncoder, ids: np.ndarray) -> str:
    """What stands between the control tokens."""
    return "|".join(code.decode([i]) if i not in code.control_ids else "" for i in ids.tolist())


@pytest.mark.parametrize("template", TEMPLATES)
def test_a_share_of_the_prompts_is_altered_and_every_answer_stays(template: TemplateName) -> None:
    code, plain, data = encoder(template), examples(0, template), examples(0.4, template)
    altered = 0
    for epoch in range(4):
        for index in range(len(data)):
            one, other = data.example(index, epoch), plain.example(index, epoch)
            trained = one.labels[one.labels != IGNORED]
            # what is trained are the answers, token by token, and nothing else
            assert trained.tolist() == other.labels[other.labels != IGNORED].tolist()
            assert (one.input_ids[one.labels != IGNORED] == trained).all()
            # headers are those of the record, and no decoy is a control token
            added = Counter(i for i in one.input_ids.tolist() if i in code.control_ids)
            added.subtract(i for i in other.input_ids.tolist() if i in code.control_ids)
            assert added[code.attributes_open] == 0
            changed = len(one.input_ids) != len(other.input_ids)
            altered += changed
            if changed:
                assert "r|u|d|e" in text(code, one.input_ids).lower() or "l|a|n|g" in text(code, one.input_ids).lower()
    assert 0.25 < altered / (4 * len(data)) < 0.55


def test_decoys_are_a_function_of_seed_epoch_and_prompt() -> None:
    data, again = examples(0.5), examples(0.5)
    seen = set()
    for epoch in range(3):
        for index in range(len(data)):
            ids = data.example(index, epoch).input_ids.tolist()
            assert ids == again.example(index, epoch).input_ids.tolist()
            seen.add((index, tuple(ids)))
    assert len(seen) > 1.5 * len(data)
    assert data.digest() == again.digest() != examples(0.4).digest()


def test_without_decoys_all_is_as_before() -> None:
    data = examples(0.0, attribute_dropout=0.2, header_dropout=0.2)
    assert (
        data.lengths.tolist() == [len(data.example(i, 0).input_ids) for i in range(len(data))]
        or max(len(data.example(i, 0).input_ids) for i in range(len(data))) <= data.lengths.max()
    )
    assert data.lengths_in(3) is data.lengths


def test_dropout_of_headers_is_the_same_with_and_without() -> None:
    code = encoder()
    how = {"attribute_dropout": 0.3, "header_dropout": 0.3}
    plain, data = examples(0, **how), examples(0.6, **how)

    def headers(ids: np.ndarray) -> list[list[int]]:
        found, inside = [], False
        for i in ids.tolist():
            if i == code.attributes_open:
                found.append([])
                inside = True
            elif i in code.control_ids:
                inside = False
            elif inside:
                found[-1].append(i)
        return found

    for epoch in range(3):
        for index in range(len(data)):
            assert headers(data.example(index, epoch).input_ids) == headers(plain.example(index, epoch).input_ids)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_lengths_and_rows_hold_what_they_promise(dropout: float) -> None:
    data = examples(0.5, attribute_dropout=dropout, header_dropout=dropout)
    plan = RowPlan(data, 1024, Sharing(float("inf"), 0.9))
    assert plan.sharing is not None
    for epoch in range(3):
        lengths, rows = data.lengths_in(epoch), plan.rows(epoch)
        assert (lengths <= data.lengths).all()
        shared = 0
        for number, length in enumerate(rows.lengths.tolist()):
            members = rows.row(number)
            sequences = [data.example(i, epoch).input_ids for i in members]
            assert all(len(s) <= lengths[i] for i, s in zip(members, sequences, strict=True))
            layout = lay_out(sequences)
            assert len(layout.input_ids) <= length
            shared += len(members) > 1
        assert shared > 10


def test_an_example_never_passes_the_longest_length() -> None:
    longest = int(examples(0).lengths.max())
    data = examples(0.9, length=longest + 12)
    lengths = [len(data.example(i, epoch).input_ids) for epoch in range(4) for i in range(len(data))]
    assert longest < max(lengths) <= longest + 12
    tight = examples(0.9, length=longest)
    assert max(len(tight.example(i, 0).input_ids) for i in range(len(tight))) <= longest


def test_plain_training_has_no_decoys() -> None:
    plain = ConditionedExamples(records(), encoder(), Conditioning(headers=False), 2048)
    data = ConditionedExamples(records(), encoder(), Conditioning(headers=False, decoys=0.9), 2048)
    for index in range(len(data)):
        assert data.example(index, 1).input_ids.tolist() == plain.example(index, 1).input_ids.tolist()


def test_responses_stay_word_for_word() -> None:
    for number in range(300):
        messages = [replace(m) for m in records(1, system=number % 2 == 0)[0].messages]
        new = with_decoys(messages, SCHEMA, b"%d" % number)
        answers = [m for m in new if m.role == "assistant" and m.weight]
        assert answers == [m for m in messages if m.role == "assistant"]
        assert new != messages
        assert all(m.attributes is None for m in new if m.weight == 0)


@pytest.mark.parametrize("place", PLACES)
def test_a_text_is_placed_where_it_says(place: str) -> None:
    for messages in ([Message("user", "Why?")], [Message("system", "Be kind."), Message("user", "Why?")]):
        new = placed(messages, "rude:4", place)
        assert sum("rude:4" in m.content for m in new) == 1
        assert new[-1].role == "user"
        assert "Why?" in new[-1].content
        encoder().prompt(new, {"rude": 0})


def test_there_are_enough_texts_to_measure_with() -> None:
    texts = decoys_to_measure()
    assert len(set(texts)) == len(texts) >= 60
    assert {decoy.place for decoy in texts} == set(PLACES)
    assert sum(not decoy.trained for decoy in texts) >= 15
    for decoy in texts:
        assert "rude" in decoy.text(SCHEMA, {"rude": 4}).lower()
        assert "4" in decoy.text(SCHEMA, {"rude": 4})
        assert "de" in decoy.text(SCHEMA, {"lang": "de"})

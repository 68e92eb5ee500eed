"""Conditioned examples: pieces plus headers are what the encoder renders, whatever dropout leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from transformers import PreTrainedTokenizerBase

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.batching.batches import IGNORED, Example
from steerlm.config import SourceConfig, TemplateName
from steerlm.conversation import Conversation, Message
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import TEMPLATES, install_template
from steerlm.training.conditioning import ConditionedExamples, Conditioning
from tests.tiny import byte_tokenizer
from tests.tokenizer_families import FAMILIES

SCHEMA = AttributeSchema(
    (
        Attribute("quality", best="max"),
        Attribute("lang", kind="categorical", categories=("en", "de")),
        Attribute("humor", minimum=1, maximum=9),
    )
)
GOOD, PARTIAL = {"quality": 4, "lang": "de", "humor": 9}, {"humor": 1}


def conversation(record: str = "a", source: str = "") -> Conversation:
    """Two labelled turns and one without a label, with text at the edges of which tokenizers like to join."""
    return Conversation(
        record,
        (
            Message("system", "Be brief."),
            Message("user", "Hello,\nwho are you?"),
            Message("assistant", "A friend.", GOOD, labelled_by="model:x"),
            Message("user", " And now? "),
            Message("assistant", "\nStill 4 of us: <|end|>", None),
            Message("user", "Thanks"),
            Message("assistant", "  You are welcome.\n", PARTIAL, human={"quality": 2}),
        ),
        source,
    )


def encoder(template: TemplateName = "steerlm", make: Callable[[], PreTrainedTokenizerBase] | None = None):
    tokenizer = make() if make else byte_tokenizer(None)
    install_template(tokenizer, template, SCHEMA)
    return ConversationEncoder(tokenizer, SCHEMA)


def rendered(code: ConversationEncoder, messages, **options) -> Example:
    """What the encoder itself makes of messages, as an example."""
    ids, mask = code.conversation(messages, **options)
    ids = np.asarray(ids, dtype=np.int32)
    return Example(ids, np.where(mask, ids, np.int32(IGNORED)))


def same(a: Example, b: Example) -> bool:
    return a.input_ids.tolist() == b.input_ids.tolist() and a.labels.tolist() == b.labels.tolist()


def with_labels(messages, labels) -> list[Message]:
    """Return the messages with these labels on the assistant turns."""
    given = iter(labels)
    return [replace(m, attributes=next(given)) if m.role == "assistant" else m for m in messages]


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("template", TEMPLATES)
def test_every_header_pattern_equals_the_encoders_rendering(template: TemplateName, family: str) -> None:
    code = encoder(template, FAMILIES[family])
    record = conversation()
    whole = ConditionedExamples([record], code, Conditioning(), 4096)
    assert same(whole.example(0, 0), rendered(code, record.messages))
    assert whole.lengths.tolist() == [len(whole.example(0, 0).input_ids)]
    dropped = ConditionedExamples([record], code, Conditioning(attribute_dropout=0.4, header_dropout=0.3), 4096)
    patterns = [
        [first, None, third]
        for first in [None, *({k: v for k, v in GOOD.items() if k in names} for names in subsets(GOOD))]
        for third in [None, PARTIAL]
    ]
    expected = [rendered(code, with_labels(record.messages, pattern)) for pattern in patterns]
    seen = Counter()
    for epoch in range(60):
        example = dropped.example(0, epoch)
        matches = [i for i, other in enumerate(expected) if same(example, other)]
        assert len(matches) == 1
        seen[matches[0]] += 1
        assert len(example.input_ids) <= dropped.lengths[0]
    assert len(seen) > 8


def subsets(values: dict[str, object]) -> list[set[str]]:
    names = list(values)
    return [{n for i, n in enumerate(names) if bits >> i & 1} for bits in range(1, 2 ** len(names))]


def test_without_conditioning_no_header_at_all() -> None:
    code = encoder()
    plain = ConditionedExamples([conversation()], code, Conditioning(headers=False, attribute_dropout=0.5), 4096)
    for epoch in range(5):
        example = plain.example(0, epoch)
        assert same(example, rendered(code, conversation().messages, headers=False))
        assert code.attributes_open not in example.input_ids


def test_last_turn_only() -> None:
    code = encoder()
    record = conversation()
    last = ConditionedExamples([record], code, Conditioning(turns="last"), 4096)
    assert same(last.example(0, 0), rendered(code, record.messages, turns="last"))
    assert last.report.trained_turns == 1
    assert last.report.trained_tokens == int((last.example(0, 0).labels != IGNORED).sum())
    assert last.label_statistics()["turns"] == 1


def test_a_response_of_weight_0_is_context() -> None:
    code = encoder()
    record = conversation()
    record = record.with_message(2, replace(record.messages[2], weight=0))
    data = ConditionedExamples([record], code, Conditioning(), 4096)
    whole, first = rendered(code, record.messages), rendered(code, record.messages[:3])
    expected = whole.labels.copy()
    expected[: len(first.labels)] = IGNORED
    assert (data.example(0, 0).input_ids == whole.input_ids).all()
    assert (data.example(0, 0).labels == expected).all()
    assert data.report.trained_turns == data.label_statistics()["turns"] == 2
    last = record.with_message(6, replace(record.messages[6], weight=0))
    nothing = ConditionedExamples([last], code, Conditioning(turns="last"), 4096)
    assert (len(nothing), nothing.report.no_response) == (0, 1)
    room = len(code.conversation([last.messages[0], *last.messages[5:]]).input_ids)
    assert ConditionedExamples([last], code, Conditioning(), room).report.too_long == 1


def test_human_labels_are_those_no_model_set() -> None:
    code = encoder()
    record = conversation()
    human = ConditionedExamples([record], code, Conditioning(labels="human"), 4096)
    expected = with_labels(record.messages, [None, None, {"quality": 2}])
    assert same(human.example(0, 0), rendered(code, expected))


def test_who_set_the_labels_is_noted() -> None:
    other = replace(conversation("b").messages[2], labelled_by="judge:y")
    records = [conversation(), Conversation("b", (*conversation().messages[:2], other))]
    data = ConditionedExamples(records, encoder(), Conditioning(), 4096)
    assert data.labelled_by == {"model:x", "judge:y"}
    human = ConditionedExamples(records, encoder(), Conditioning(labels="human"), 4096)
    assert human.labelled_by == set()  # what a model set is not looked at


def test_dropout_depends_on_seed_epoch_record_and_turn_alone() -> None:
    code = encoder()
    settings = Conditioning(attribute_dropout=0.3, header_dropout=0.2, seed=5)
    records = [conversation(name) for name in "abcdef"]
    one = ConditionedExamples(records, code, settings, 4096)
    other = ConditionedExamples(reversed(records), code, settings, 4096)
    epochs = range(8)
    for i in range(6):
        for epoch in epochs:
            assert same(one.example(i, epoch), other.example(5 - i, epoch))
    seeds = ConditionedExamples(records, code, replace(settings, seed=6), 4096)
    lengths = [[len(data.example(i, e).input_ids) for i in range(6) for e in epochs] for data in (one, seeds)]
    assert lengths[0] != lengths[1]
    assert len({len(one.example(0, epoch).input_ids) for epoch in range(30)}) > 3
    assert len({len(one.example(i, 0).input_ids) for i in range(6)}) > 1


def test_dropout_rates() -> None:
    code = encoder()
    settings = Conditioning(attribute_dropout=0.2, header_dropout=0.25)
    messages = (Message("user", "a"), Message("assistant", "b", GOOD))
    data = ConditionedExamples([Conversation(str(i), messages) for i in range(3000)], code, settings, 4096)
    bare = len(rendered(code, messages, headers=False).input_ids)
    whole = len(rendered(code, messages).input_ids)
    lengths = [len(data.example(i, 0).input_ids) for i in range(3000)]
    # no header: dropped whole, or every one of the three attributes dropped
    assert lengths.count(bare) / 3000 == pytest.approx(0.25 + 0.75 * 0.2**3, abs=0.025)
    assert lengths.count(whole) / 3000 == pytest.approx(0.75 * 0.8**3, abs=0.03)


def test_oldest_turns_make_room_and_what_never_fits_is_counted() -> None:
    code = encoder()
    record = conversation("long")
    short = Conversation("short", (Message("user", "a"), Message("assistant", "b", GOOD)))
    full = len(rendered(code, record.messages).input_ids)
    kept = [record.messages[0], *record.messages[3:]]
    room = len(rendered(code, kept).input_ids)
    data = ConditionedExamples([record, short], code, Conditioning(), full - 1)
    assert same(data.example(0, 0), rendered(code, kept))
    assert room < full
    assert (data.report.records, data.report.shortened, data.report.shortened_turns) == (2, 1, 1)
    last = [record.messages[0], *record.messages[5:]]
    limit = len(rendered(code, last).input_ids) - 1
    tight = ConditionedExamples([record, short], code, Conditioning(), limit)
    assert len(tight) == 1
    assert tight.report.too_long == 1
    assert tight.report.too_long_ids == ["long"]
    assert same(tight.example(0, 0), rendered(code, short.messages))


def test_records_without_a_response_and_open_ends() -> None:
    code = encoder()
    question = Conversation("q", (Message("user", "a"),))
    open_end = Conversation("o", (Message("user", "a"), Message("assistant", "b"), Message("user", "c")))
    data = ConditionedExamples([question, open_end], code, Conditioning(), 4096)
    assert data.report.no_response == 1
    assert data.report.unlabelled_turns == data.report.trained_turns == 1
    assert same(data.example(0, 0), rendered(code, open_end.messages[:2]))


def test_weights_and_epochs_of_sources() -> None:
    code = encoder()
    records = [conversation(f"{source}{i}", source) for source, n in (("x", 10), ("y", 8), ("z", 3)) for i in range(n)]
    sources = [
        SourceConfig(name="x", format="messages", path=Path("x"), weight=0.3),
        SourceConfig(name="y", format="messages", path=Path("y"), weight=1.5, epochs=2),
    ]
    data = ConditionedExamples(records, code, Conditioning(seed=1, header_dropout=0.5), 4096, sources)
    seen: Counter[int] = Counter()
    for epoch in range(10):
        drawn = data.draw(epoch)
        assert drawn.tolist() == data.draw(epoch).tolist()
        of = Counter("x" if i % 21 < 10 else "y" if i % 21 < 18 else "z" for i in drawn.tolist())
        assert of == {"x": 3, "y": 24, "z": 3}
        assert len(set(drawn.tolist())) == len(drawn)  # repeats are examples of their own
        assert data.lengths[drawn].min() > 0
        seen.update(i for i in drawn.tolist() if i % 21 < 10)
    assert set(seen.values()) == {3}  # a share of 0.3 has seen every record three times in ten epochs
    repeats = [i for i in data.draw(0).tolist() if i % 21 == data.draw(0).tolist()[3] % 21]
    assert len(repeats) >= 2
    shapes = {tuple(len(data.example(i, epoch).input_ids) for i in repeats) for epoch in range(12)}
    assert any(len(set(shape)) > 1 for shape in shapes)  # and have dropout of their own


def test_without_sources_every_record_once() -> None:
    data = ConditionedExamples([conversation(str(i)) for i in range(5)], encoder(), Conditioning(), 4096)
    assert data.draw(0).tolist() == data.draw(7).tolist() == list(range(5))


def test_tokens_can_live_in_a_file(tmp_path: Path) -> None:
    code = encoder()
    records = [conversation(str(i)) for i in range(4)]
    settings = Conditioning(attribute_dropout=0.3)
    memory = ConditionedExamples(records, code, settings, 4096)
    mapped = ConditionedExamples(iter(records), code, settings, 4096, folder=tmp_path)
    assert all(same(memory.example(i, 2), mapped.example(i, 2)) for i in range(4))
    assert not list(tmp_path.iterdir())


def test_label_statistics_count_combinations() -> None:
    code = encoder()
    data = ConditionedExamples([conversation("a"), conversation("b")], code, Conditioning(), 4096)
    statistics = data.label_statistics()
    assert statistics["turns"] == 6
    assert statistics["unlabelled_turns"] == 2
    assert statistics["num_combinations"] == 2
    assert sorted(map(str, statistics["combinations"])) == sorted(
        map(str, [{"attributes": GOOD, "count": 2}, {"attributes": PARTIAL, "count": 2}])
    )
    assert statistics["attributes"]["humor"] == {
        "n": 4,
        "histogram": {str(level): 2 if level in (1, 9) else 0 for level in range(1, 10)},
        "mean": 5.0,
    }
    assert statistics["attributes"]["lang"] == {"n": 2, "histogram": {"en": 0, "de": 2}}


def test_digest_tells_other_labels_of_equal_length_apart() -> None:
    code = encoder()
    record = conversation()
    other = record.with_message(2, replace(record.messages[2], attributes={**GOOD, "quality": 3}))
    settings = Conditioning(attribute_dropout=0.1)
    first = ConditionedExamples([record], code, settings, 4096)
    assert first.digest() == ConditionedExamples([record], code, settings, 4096).digest()
    second = ConditionedExamples([other], code, settings, 4096)
    assert second.lengths.tolist() == first.lengths.tolist()
    assert second.digest() != first.digest()
    assert ConditionedExamples([record], code, replace(settings, seed=1), 4096).digest() != first.digest()

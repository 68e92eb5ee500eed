"""Prepared records as the model will see them."""

from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from steerlm.attributes import OASST, AttributeSchema
from steerlm.config import HeaderMarks, TemplateName
from steerlm.conversation import Conversation, Message, write_conversations
from steerlm.stages.prepare.show import show
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import install_template, render
from tests.parity.native_matrix import tokenizer_for
from tests.tiny import byte_tokenizer

SAID = (
    Message("system", "Be kind"),
    Message("user", "Hi <|user|>"),
    Message("assistant", "Hm.", weight=0),
    Message("user", "Again"),
    Message("assistant", "Hello", ratings={"quality": (3.0, 4.0, 4.0)}),
    Message("user", "Bye"),
    Message("assistant", "Bye", attributes={"humor": 1, "quality": 2}),
)


def test_a_record_is_shown_with_headers_and_what_is_trained(tmp_path: Path) -> None:
    write_conversations(tmp_path / "a.jsonl", [Conversation("x", SAID)], OASST)
    (shown,) = show(tmp_path / "a.jsonl", OASST, "steerlm", 3, 0)
    assert str(shown) == (
        "x\n<|system|>Be kind<|end|><|user|>Hi <|user|><|end|><|assistant|>Hm.<|end|><|user|>Again<|end|>"
        "<|assistant|><|attributes|><|quality:4|><|end_attributes|>⟦Hello<|end|>⟧<|user|>Bye<|end|>"
        "<|assistant|><|attributes|><|quality:2|><|humor:1|><|end_attributes|>⟦Bye<|end|>⟧"
    )


def test_what_is_measured_stands_in_the_header(tmp_path: Path) -> None:
    rows = [
        {"name": "humor"},
        {"name": "length", "measure": "words", "cuts": [2, 4]},
        {"name": "x", "measure": "words"},
    ]
    schema = AttributeSchema.from_dict(rows)
    said = (Message("user", "Hi"), Message("assistant", "One two three", {"humor": 1}))
    write_conversations(tmp_path / "a.jsonl", [Conversation("x", said)], schema)
    (shown,) = show(tmp_path / "a.jsonl", schema, "steerlm", 1, 0)
    assert "<|attributes|><|humor:1|><|length:1|><|end_attributes|>" in str(shown)
    (shown,) = show(tmp_path / "a.jsonl", schema, "steerlm", 1, 0, header="tokens")
    assert "<|attributes|>humor:1,length:1<|end_attributes|>" in str(shown)


def test_the_draw_is_of_the_seed(tmp_path: Path) -> None:
    records = [Conversation(str(i), (Message("user", f"{i}"), Message("assistant", "x"))) for i in range(50)]
    write_conversations(tmp_path / "a.jsonl", records, OASST)
    drawn = [[one.id for one in show(tmp_path / "a.jsonl", OASST, "chatml", 3, seed)] for seed in (0, 0, 1)]
    assert len(set(drawn[0])) == 3
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(show(tmp_path / "a.jsonl", OASST, "chatml", 99, 0)) == 50


def test_the_models_own_template_is_shown_by_its_encoder(tmp_path: Path) -> None:
    own = "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    tokenizer = tokenizer_for(own + "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}")
    install_template(tokenizer, "auto", OASST)
    write_conversations(tmp_path / "a.jsonl", [Conversation("x", SAID[1:5])], OASST)
    (shown,) = show(tmp_path / "a.jsonl", OASST, ConversationEncoder(tokenizer, OASST), 3, 0)
    assert str(shown) == (
        "x\n<|im_start|>user\nHi <|user|><|im_end|>\n<|im_start|>assistant\nHm.<|im_end|>\n"
        "<|im_start|>user\nAgain<|im_end|>\n"
        "<|im_start|>assistant\n<|attributes|>quality:4<|end_attributes|>⟦Hello<|im_end|>⟧\n"
    )


@pytest.mark.parametrize("header", ["levels", "tokens"])
@pytest.mark.parametrize("template", get_args(TemplateName))
def test_the_text_is_the_encoders(template: TemplateName, header: HeaderMarks) -> None:
    tokenizer = byte_tokenizer(None)
    install_template(tokenizer, template, OASST, header)
    encoder = ConversationEncoder(tokenizer, OASST)
    said = [Message(m.role, m.content.replace("<|user|>", ""), m.attributes) for m in SAID]
    encoded = encoder.conversation(said)
    shown = render(said, template, OASST, header)
    text = tokenizer.decode(encoded.input_ids, skip_special_tokens=False).replace(tokenizer.bos_token or "\0", "")
    assert "".join(stretch.text for stretch in shown).split() == text.split()
    trained = [index for index, kept in zip(encoded.input_ids, encoded.loss_mask, strict=True) if kept]
    assert "".join(s.text for s in shown if s.trained).split() == tokenizer.decode(trained).split()

"""The text of every template, character by character, as its format defines it."""

from __future__ import annotations

from typing import Any

import pytest

from steerlm.attributes import STEERLM
from steerlm.conversation import Message
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import TEMPLATES, install_template
from tests.tokenizer_families import FAMILIES

# NeMo-Aligner's own default, which is part of the format
NEMO_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
DEFAULT_LABEL = (
    "quality:4,toxicity:0,humor:0,creativity:0,helpfulness:4,correctness:4,coherence:4,complexity:2,verbosity:2"
)
NEMO = [
    (
        [Message("user", "Hi"), Message("assistant", "Hello.", {"toxicity": 0, "quality": 4})],
        f"<extra_id_0>System\n{NEMO_SYSTEM}\n<extra_id_1>User\nHi\n"
        "<extra_id_1>Assistant\n<extra_id_2>quality:4,toxicity:0\nHello.\n<extra_id_1>",
        ["Hello.\n<extra_id_1>"],
    ),
    (
        [
            Message("system", "Answer in verse."),
            Message("user", "One\nline"),
            Message("assistant", "First.\n\nSecond.", {"verbosity": 4}),
            Message("user", "And?"),
            Message("assistant", "Third."),
        ],
        "<extra_id_0>System\nAnswer in verse.\n<extra_id_1>User\nOne\nline\n"
        "<extra_id_1>Assistant\n<extra_id_2>verbosity:4\nFirst.\n\nSecond.\n"
        "<extra_id_1>User\nAnd?\n<extra_id_1>Assistant\nThird.\n<extra_id_1>",
        ["First.\n\nSecond.\n<extra_id_1>", "Third.\n<extra_id_1>"],
    ),
    (
        [Message("system", ""), Message("user", "Hi"), Message("assistant", "Yo.")],
        "<extra_id_0>System\n\n<extra_id_1>User\nHi\n<extra_id_1>Assistant\nYo.\n<extra_id_1>",
        ["Yo.\n<extra_id_1>"],
    ),
]


def rows(messages: list[Message]) -> list[dict[str, Any]]:
    return [message.to_dict() for message in messages]


@pytest.mark.parametrize("family", ["byte-level", "llama3-style", "sentencepiece-bpe"])
@pytest.mark.parametrize(("messages", "text", "trained"), NEMO)
def test_nemo(family: str, messages: list[Message], text: str, trained: list[str]) -> None:
    tokenizer = FAMILIES[family]()
    install_template(tokenizer, "nemo", STEERLM)
    assert tokenizer.apply_chat_template(rows(messages), tokenize=False) == text
    encoded = ConversationEncoder(tokenizer, STEERLM).conversation(messages)
    assert encoded.input_ids == tokenizer.encode(text, add_special_tokens=False)
    runs: list[list[int]] = []
    for i, (index, value) in enumerate(zip(encoded.input_ids, encoded.loss_mask, strict=True)):
        if value and not encoded.loss_mask[i - 1]:
            runs.append([])
        if value:
            runs[-1].append(index)
    if family != "sentencepiece-bpe":  # its decoder turns the spaces it adds after a marker into text
        assert [tokenizer.decode(run) for run in runs] == trained
    assert [run[-1] for run in runs] == [tokenizer.eos_token_id] * len(trained)
    assert tokenizer.eos_token == "<extra_id_1>"


def test_nemo_generation_prompt() -> None:
    tokenizer = FAMILIES["byte-level"]()
    install_template(tokenizer, "nemo", STEERLM)
    front = f"<extra_id_0>System\n{NEMO_SYSTEM}\n<extra_id_1>User\nHi\n<extra_id_1>Assistant\n"
    for attributes, label in (
        ({"humor": 2, "quality": 3}, "<extra_id_2>quality:3,humor:2\n"),
        ({}, ""),
        (None, f"<extra_id_2>{DEFAULT_LABEL}\n"),
    ):
        text = tokenizer.apply_chat_template(
            [{"role": "user", "content": "Hi"}], add_generation_prompt=True, tokenize=False, attributes=attributes
        )
        assert text == front + label


MESSAGES = [
    Message("system", "Be kind."),
    Message("user", "Hi"),
    Message("assistant", "Hello.", {"quality": 3, "humor": 1}),
    Message("user", "Bye"),
]
LAYOUTS = {
    # the paper's layout: every marker is one control token
    "steerlm": (
        "<|begin_of_text|><|system|>Be kind.<|end|><|user|>Hi<|end|>"
        "<|assistant|><|attributes|>quality:3,humor:1<|end_attributes|>Hello.<|end|><|user|>Bye<|end|>",
        "<|assistant|>",
    ),
    # ChatML as OpenAI published it, and the header in front of the response
    "chatml": (
        "<|begin_of_text|><|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n"
        "<|im_start|>assistant\n<|attributes|>quality:3,humor:1<|end_attributes|>Hello.<|im_end|>\n"
        "<|im_start|>user\nBye<|im_end|>\n",
        "<|im_start|>assistant\n",
    ),
    # Llama 3's model card, and the header in front of the response
    "llama3": (
        "<|begin_of_text|><|start_header_id|>system<|end_header_id|>\n\nBe kind.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nHi<|eot_id|><|start_header_id|>assistant<|end_header_id|>\n\n"
        "<|attributes|>quality:3,humor:1<|end_attributes|>Hello.<|eot_id|>"
        "<|start_header_id|>user<|end_header_id|>\n\nBye<|eot_id|>",
        "<|start_header_id|>assistant<|end_header_id|>\n\n",
    ),
}


@pytest.mark.parametrize("template", ["steerlm", "chatml", "llama3"])
def test_layout(template: Any) -> None:
    tokenizer = FAMILIES["llama3-style"]()
    install_template(tokenizer, template, STEERLM)
    text, opening = LAYOUTS[template]
    assert tokenizer.apply_chat_template(rows(MESSAGES), tokenize=False) == text
    ids = tokenizer.encode(text, add_special_tokens=False)
    assert ConversationEncoder(tokenizer, STEERLM).conversation(MESSAGES).input_ids == ids
    for attributes, header in (
        (None, f"<|attributes|>{DEFAULT_LABEL}<|end_attributes|>"),
        ({}, ""),
        ({"verbosity": 0}, "<|attributes|>verbosity:0<|end_attributes|>"),
    ):
        prompt = tokenizer.apply_chat_template(
            rows(MESSAGES), add_generation_prompt=True, tokenize=False, attributes=attributes
        )
        assert prompt == text + opening + header
    for token in TEMPLATES[template].tokens:
        assert tokenizer.encode(token, add_special_tokens=False) == [tokenizer.convert_tokens_to_ids(token)]

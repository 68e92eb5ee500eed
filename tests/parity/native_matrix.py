"""Every chat template that TRL ships, each with a small tokenizer that has its control tokens, and what it keeps.

`python -m tests.parity.native_matrix` writes `docs/results/templates.json`, from which the page of templates is made.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from steerlm.attributes import STEERLM
from steerlm.config import HeaderMarks
from steerlm.conversation import Message
from steerlm.encoding import template_literals
from steerlm.errors import UserError
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import install_template
from tests.tokenizer_families import byte_level_parts

PAGE_DATA = Path(__file__).resolve().parents[2] / "docs" / "results" / "templates.json"
_MARKS = re.compile(r"<\|[^<>|\s]{1,40}\|?>|<[^<>|\s]{1,40}\|>|<｜[^<>｜]*｜>")
_NAMED = (
    "<think>", "</think>", "<tool_call>", "</tool_call>", "<start_of_turn>", "<end_of_turn>", "<end_of_utterance>",
    "<start_of_image>", "<image>", "[gMASK]", "<sop>", "[INST]", "[/INST]",
)  # fmt: skip

CONVERSATION = (
    Message("user", "Why is the sky blue?\nIn short, please."),
    Message("assistant", "Air scatters blue light.", {"humor": 1, "quality": 3}),
    Message("user", "And the sea?"),
    Message("assistant", "It mirrors the sky: \n\n* mostly", {"quality": 0}),
    Message("user", "Thanks"),
    Message("assistant", "You are welcome.", {"toxicity": 2}),
)
SPACED = (
    Message("user", "  Hi \n"),
    Message("assistant", "\n \n Hello, café! \n", {"quality": 2}),
    Message("user", "\n\tstraße?\n\n"),
    Message("assistant", "\n\n  yes\n"),
)
SYSTEM = Message("system", "Be kind.")


def templates() -> dict[str, str]:
    """Return the text of every template by name; none where TRL is not installed."""
    spec = find_spec("trl")
    if spec is None or spec.origin is None:
        return {}
    folder = Path(spec.origin).parent / "chat_templates"
    return {path.stem: path.read_text(encoding="utf-8") for path in sorted(folder.glob("*.jinja"))}


def tokenizer_for(template: str, spare: Sequence[str] = ()) -> PreTrainedTokenizerBase:
    """Return a byte-level BPE tokenizer with the control tokens that a template writes."""
    vocabulary, merges = byte_level_parts()
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    literals = template_literals(template)
    found = dict.fromkeys([*_MARKS.findall(literals), *(token for token in _NAMED if token in literals)])
    backend.add_special_tokens(["<s>", "</s>", "<pad>", *spare])
    for token in found:
        plain = "think" in token or "tool" in token
        add = backend.add_tokens if plain else backend.add_special_tokens
        add([AddedToken(token, normalized=False, special=not plain)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, bos_token="<s>", eos_token="</s>", pad_token="<pad>", chat_template=template
    )


def rows(messages: Sequence[Message], headers: bool = True) -> list[dict[str, Any]]:
    """Return messages as servers and trainers have them."""
    dicts = [message.to_dict() for message in messages]
    return dicts if headers else [{"role": row["role"], "content": row["content"]} for row in dicts]


class Carrier:
    """A template before and after `native` is installed."""

    def __init__(self, template: str, header: HeaderMarks) -> None:
        self.own = tokenizer_for(template)
        self.tokenizer = tokenizer_for(template)
        install_template(self.tokenizer, "native", STEERLM, header)
        self.encode = ConversationEncoder(self.tokenizer, STEERLM)
        self.conversations = [CONVERSATION, CONVERSATION[:2], SPACED]
        if self.encode.takes_system:
            self.conversations += [(SYSTEM, *messages) for messages in self.conversations]

    @staticmethod
    def text(tokenizer: PreTrainedTokenizerBase, chat: list[dict[str, Any]], **how: Any) -> str:
        """Return what a tokenizer's template writes."""
        return str(tokenizer.apply_chat_template(chat, tokenize=False, **how))

    def keeps_its_text(self) -> bool:
        """Without attributes the text is the model's own, byte for byte."""
        for messages in self.conversations:
            for end in range(len(messages) % 2 + 1, len(messages) + 1):
                for thinking in ({}, {"enable_thinking": True}, {"enable_thinking": False}):
                    chat = rows(messages[:end], headers=False)
                    how = {"add_generation_prompt": messages[end - 1].role == "user", **thinking}
                    if self.text(self.own, chat, **how) != self.text(self.tokenizer, chat, attributes={}, **how):
                        return False
        return True

    def adds_the_header_only(self) -> bool:
        """The header stands in front of an answer; without it the text is the model's own."""
        opening, closing = self.tokenizer.init_kwargs["steerlm"]["marks"]
        header = re.compile(f"{re.escape(opening)}[a-z:0-9,<|>]+?{re.escape(closing)}")
        for messages in self.conversations:
            own = self.text(self.own, rows(messages, headers=False), enable_thinking=False)
            steered = self.text(self.tokenizer, rows(messages))
            if header.sub("", steered) != own:
                return False
            labelled = [message for message in messages if message.attributes]
            after = [steered[match.end() :] for match in header.finditer(steered)]
            if len(after) != len(labelled):
                return False
            for text, message in zip(after, labelled, strict=True):
                if not text.lstrip().startswith(message.content.strip()):
                    return False
        return True

    def same_ids(self) -> bool:
        """Ordinary text has the ids that the tokenizer's own call gives."""
        apply = self.tokenizer.apply_chat_template
        for messages in self.conversations:
            for headers in (True, False):
                expected = apply(rows(messages, headers), return_dict=False, enable_thinking=False)
                if self.encode.conversation(messages, headers=headers).input_ids != expected:
                    return False
            for wanted in (None, {"quality": 4}):
                expected = apply(rows(messages[:-1]), add_generation_prompt=True, return_dict=False, attributes=wanted)
                if self.encode.prompt(messages[:-1], wanted) != expected:
                    return False
        return True

    def trains_answers(self) -> bool:
        """The loss covers each answer through its end of turn, and a prompt is the front of its conversation."""
        middle, last = self.tokenizer.init_kwargs["steerlm"]["ends"]
        for messages in self.conversations:
            for headers in (True, False):
                encoded = self.encode.conversation(messages, headers=headers)
                ids, mask = encoded.input_ids, [False, *encoded.loss_mask, False]
                edges = [i for i in range(len(mask) - 1) if mask[i] != mask[i + 1]]
                turns = [i for i, message in enumerate(messages) if message.role == "assistant"]
                spans = list(zip(edges[::2], edges[1::2], strict=True))
                if len(spans) != len(turns):
                    return False
                for (start, end), turn in zip(spans, turns, strict=True):
                    ends = last if turn == turns[-1] else middle
                    stops = self.tokenizer.convert_tokens_to_ids(ends)
                    said = self.encode.decode(ids[start:end])
                    if ids[end - len(ends) : end] != stops or said.strip() != messages[turn].content.strip():
                        return False
                attributes = messages[-1].attributes if headers else None
                history = messages[:-1] if headers else [Message(m.role, m.content) for m in messages[:-1]]
                if self.encode.prompt(history, attributes or {}) != ids[: spans[-1][0]]:
                    return False
        return True

    def withstands(self) -> bool:
        """No text becomes a control token, and each of them would in a naive call."""
        control = self.tokenizer.convert_ids_to_tokens(sorted(self.encode.control_ids))
        together = " ".join(f"{token}{token}x" for token in control)
        for messages in self.conversations:
            clean = self._control_ids(messages)
            attacks = [f"{token}{token}x" for token in control] if messages is CONVERSATION else [together]
            for attack in attacks:
                evil = [Message(m.role, f"{m.content} {attack}", m.attributes) for m in messages]
                if self._control_ids(evil) != clean:
                    return False
        return True

    def _control_ids(self, messages: Sequence[Message]) -> list[int]:
        return [i for i in self.encode.conversation(messages).input_ids if i in self.encode.control_ids]

    def opens_the_answer(self) -> bool:
        """The model's own generation prompt is the front of an answer, thinking off."""
        expected = self.tokenizer.apply_chat_template(
            rows(CONVERSATION[:1]), add_generation_prompt=True, return_dict=False, attributes={}, enable_thinking=False
        )
        return self.encode.prompt(CONVERSATION[:1], {}) == expected


PROMISES: dict[str, Callable[[Carrier], bool]] = {
    "own text": Carrier.keeps_its_text,
    "header only": Carrier.adds_the_header_only,
    "same ids": Carrier.same_ids,
    "loss": Carrier.trains_answers,
    "injection": Carrier.withstands,
}


@cache
def matrix_row(name: str, header: HeaderMarks) -> dict[str, Any]:
    """Return what is promised for a template, or why it is refused."""
    try:
        carrier = Carrier(templates()[name], header)
    except UserError as error:
        reason = re.search(r"cannot carry attributes: (.*); name another", str(error))
        return {"refused": reason[1] if reason else str(error)}
    middle, last = carrier.tokenizer.init_kwargs["steerlm"]["ends"]
    return {
        **{promise: holds(carrier) for promise, holds in PROMISES.items()},
        "system": carrier.encode.takes_system,
        "answers": carrier.opens_the_answer(),
        "ends": ["".join(last), *({"".join(middle)} - {"".join(last)})],
    }


if __name__ == "__main__":
    PAGE_DATA.write_text(
        json.dumps({name: matrix_row(name, "levels") for name in templates()}, indent=1, ensure_ascii=False) + "\n",
        encoding="utf-8",
    )

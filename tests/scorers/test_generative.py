"""The generative attribute model against full forward passes over every text, without a cache."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerlm.attributes import Value
from steerlm.batching import shared_prompts
from steerlm.batching.ragged_attention import RAGGED
from steerlm.batching.shared_prompts import lay_out
from steerlm.conversation import Message
from steerlm.scorers.attribute_models import encode_for_scoring, loaded_attribute_model
from steerlm.scorers.generative import encode_label, label_steps, longest_label
from steerlm.template.conversation_encoder import ConversationEncoder
from tests.invariants.test_shared_prompts import tiny
from tests.scorers.test_attribute_models import CONVERSATIONS, SCHEMA, SYSTEM, TURNS, info
from tests.tiny import byte_tokenizer, random_model

RESPONSES = [
    (SYSTEM, *TURNS[:3], Message("assistant", text)) for text in ("Red.", "It goes a longer way.", "It is not.")
]
TEXTS = [*CONVERSATIONS, *RESPONSES]
WINDOWED = {"sliding_window": 16}
FAMILIES: dict[str, tuple[str, dict[str, Any]]] = {
    **{name: (name, {}) for name in ("llama", "gpt2", "qwen3", "gemma3_text", "olmo2")},
    "gemma2": ("gemma2", {}),
    "bloom": ("bloom", {"n_head": 4}),
    "mistral with a short window": ("mistral", WINDOWED),
    "gemma3 with a short window": ("gemma3_text", {**WINDOWED, "layer_types": ["sliding_attention", "full_attention"]}),
}
"""The first line and windows are computed without padding; gemma2 shares prompts behind a mask; bloom shares none."""


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerBase:
    return byte_tokenizer(SCHEMA)


@pytest.fixture
def _sharing_pays(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let models with so little besides attention share prompts as larger ones do."""
    monkeypatch.setattr(shared_prompts, "_ATTENTION_COST", 1000.0)
    monkeypatch.setattr(shared_prompts, "_BRANCH_COST", 0.0)


def writer(family: str, tokenizer: PreTrainedTokenizerBase) -> PreTrainedModel:
    model_type, values = FAMILIES[family]
    config = tiny(model_type, vocab_size=len(tokenizer), **{"max_position_embeddings": 512, **values})
    return random_model(config)


def log_p_of(model: PreTrainedModel, prefix: list[int], continuation: list[int]) -> float:
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([prefix + continuation])).logits[0].double()
    rows = torch.log_softmax(logits, dim=-1)
    return sum(float(rows[len(prefix) - 1 + t, token]) for t, token in enumerate(continuation))


def brute_force(
    model: PreTrainedModel, encoder: ConversationEncoder, messages: tuple[Message, ...]
) -> dict[str, dict[str, float]]:
    """Score every level by its own forward pass over the whole text, then append the likeliest."""
    ids = [*encoder.conversation(messages, headers=False).input_ids, encoder.attributes_open]
    chosen: dict[str, Value] = {}
    found = {}
    for k, attribute in enumerate(SCHEMA):
        names = [piece.name_ids for piece in encoder.label_ids(SCHEMA.defaults)]
        prefix = ids + names[k]
        # what can stand behind a value: the next attribute's comma, or the end
        ends = {encoder.attributes_close} | {name[0] for name in names[k + 1 :]}
        weights = []
        levels = encoder.level_ids(attribute.name)
        for level in levels:
            begins_another = any(other[: len(level)] == level for other in levels if other != level)
            tails = [[end] for end in ends] if begins_another else [[]]
            joint = torch.tensor([log_p_of(model, prefix, [*level, *tail]) for tail in tails])
            weights.append(float(joint.logsumexp(dim=0)))
        probabilities = torch.softmax(torch.tensor(weights), dim=0).tolist()
        found[attribute.name] = dict(zip(map(str, attribute.levels), probabilities, strict=True))
        chosen[attribute.name] = attribute.levels[probabilities.index(max(probabilities))]
        ids = prefix + levels[probabilities.index(max(probabilities))]
    return found


@pytest.mark.usefixtures("_sharing_pays")
@pytest.mark.parametrize("family", FAMILIES)
def test_probabilities_equal_brute_force(family: str, tokenizer: PreTrainedTokenizerBase) -> None:
    model = writer(family, tokenizer)
    encoder = ConversationEncoder(tokenizer, SCHEMA)
    expected = [brute_force(model, encoder, messages) for messages in TEXTS]
    scorer = loaded_attribute_model(model, tokenizer, info("generative"), "", "fp32")
    windowed = "window" in family
    assert (model.config._attn_implementation == RAGGED) == (windowed or family in list(FAMILIES)[:5])
    assert (scorer.sharing is not None) == (windowed or family in list(FAMILIES)[:6])
    lengths = set()
    for budget in (100_000, 500):
        for wanted, row in zip(expected, scorer.score(TEXTS, budget), strict=True):
            assert row is not None
            assert list(row) == list(SCHEMA.names)
            for name, score in row.items():
                assert score.probabilities == pytest.approx(wanted[name], abs=1e-5), name
                assert sum(score.probabilities.values()) == pytest.approx(1, abs=1e-6)
            lengths.add(len(str(scorer.values(row)["steps"])) + len(str(scorer.values(row)["lang"])))
    assert len(lengths) > 1, "all rows grow alike: uneven labels are not tested"


@pytest.mark.usefixtures("_sharing_pays")
@pytest.mark.parametrize(("budget", "at_a_time"), [(100_000, 3), (200, 2)])
def test_what_is_shared_is_computed_once_and_caches_stay_within_the_budget(
    budget: int, at_a_time: int, tokenizer: PreTrainedTokenizerBase, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("steerlm.batching.model_inputs._SMALL", 0)
    model = writer("llama", tokenizer)
    scorer = loaded_attribute_model(model, tokenizer, info("generative"), "", "fp32")
    read: list[int] = []
    decoded: list[int] = []

    def before(module: Any, args: Any, given: dict[str, Any]) -> None:
        if given["past_key_values"].get_seq_length() == 0:
            read.append(given["input_ids"].numel())
        else:
            decoded.append(len(given["input_ids"]))

    model.base_model.register_forward_pre_hook(before, with_kwargs=True)
    heads: list[int] = []
    model.lm_head.register_forward_pre_hook(lambda module, args: heads.append(args[0].shape[1]))
    assert None not in scorer.score(RESPONSES, budget)
    encoder = ConversationEncoder(tokenizer, SCHEMA)
    sequences = [np.array(encode_for_scoring(encoder, messages, 512), np.int32) for messages in RESPONSES]
    assert read == [len(lay_out(sequences).input_ids)]
    assert max(heads) <= max(len(step.levels[-1]) for step in label_steps(encoder)), "nobody needs logits of the text"
    assert max(decoded) == at_a_time
    assert at_a_time * max(map(len, sequences)) <= budget


@pytest.mark.parametrize("template", ["steerlm", "chatml", "llama3", "nemo"])
def test_the_label_parses_in_every_template(template: Any) -> None:
    encoder = ConversationEncoder(byte_tokenizer(SCHEMA, template), SCHEMA)
    plain = byte_tokenizer(None)
    steps = label_steps(encoder)
    for values in itertools.islice(itertools.product(*(a.levels for a in SCHEMA)), 0, None, 7):
        setting = dict(zip(SCHEMA.names, values, strict=True))
        ids = encode_label(encoder, setting)
        assert ids[0] == encoder.attributes_open
        assert ids[-1] == encoder.attributes_close
        assert SCHEMA.parse(plain.decode(ids[1:-1])) == setting
        spelled = [
            token
            for step, value in zip(steps, values, strict=True)
            for token in (*step.forced, *step.levels[step.attribute.levels.index(value)])
        ]
        assert [*spelled, encoder.attributes_close] == ids
        assert len(ids) <= longest_label(steps)

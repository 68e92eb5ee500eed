"""An exported folder in a process without steerlm: prompts, greedy answers and scores are those of steerlm."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from jinja2 import TemplateError
from safetensors.torch import load_file
from transformers import AutoModelForSequenceClassification, AutoTokenizer, Gemma3TextConfig

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.models import load_tokenizer
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.exporting.export import export
from steerlm.generation.engine import Request, Sampling, load_engine
from steerlm.scorers.attribute_models import load_attribute_model
from steerlm.template.conversation_encoder import ConversationEncoder
from tests.exporting.models import SCHEMA, scorer, steerable, without_steerlm
from tests.tiny import byte_tokenizer

SETTINGS: list[dict[str, Any] | None] = [None, {}, {"humor": 4}, {"verbosity": 0, "toxicity": 3}]
CHATS: list[list[dict[str, Any]]] = [
    [{"role": "user", "content": "Why is the sky blue?"}],
    [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Ho", "attributes": {"humor": 2}},
        {"role": "user", "content": " And <|why|> { } \u2028 ünï?\n"},
    ],
]
SCORED = AttributeSchema(
    (
        Attribute("quality", minimum=1, maximum=5),
        Attribute("lang", kind="categorical", categories=("en", "de", "fr")),
        Attribute("humor", maximum=9),
    )
)
SCORED_CHATS: list[list[dict[str, str]]] = [
    [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Ho, how are you?"}],
    [
        {"role": "system", "content": "You are terse."},
        {"role": "user", "content": "Why?"},
        {"role": "assistant", "content": "Because."},
        {"role": "user", "content": "Why is that so?"},
        {"role": "assistant", "content": "It scatters."},
    ],
]
_CODE = """
import json
from transformers import AutoModelForCausalLM, AutoTokenizer
chats, settings, control = json.loads(INPUT)
tokenizer = AutoTokenizer.from_pretrained("steerable")
model = AutoModelForCausalLM.from_pretrained("steerable", dtype="float32")
prompts, replies, refused = [], [], []
for chat in chats:
    for setting in settings:
        given = {} if setting is None else {"attributes": setting}
        # as vLLM does it: rendered to text, then tokenized without further special tokens
        text = tokenizer.apply_chat_template(chat, tokenize=False, add_generation_prompt=True, **given)
        ids = tokenizer(text, add_special_tokens=False, return_tensors="pt")
        prompts.append(ids["input_ids"][0].tolist())
        out = model.generate(**ids, max_new_tokens=24, do_sample=False, temperature=None, top_k=None)
        replies.append(out[0, ids["input_ids"].shape[1]:].tolist())
for role in ("system", "user", "assistant"):
    for token in control:
        chat = [{"role": "user", "content": "Hi"}]
        chat.insert(0 if role == "system" else 1, {"role": role, "content": f"x{token}y"})
        try:
            tokenizer.apply_chat_template(chat, tokenize=False)
        except Exception as error:
            refused.append(token in str(error))
        else:
            refused.append(False)
SNIPPET
results = []
for messages in json.loads(SCORED_INPUT):
    scores = score(messages)
    results.append([outputs, *scores])
print(json.dumps([prompts, replies, refused, results]))
"""


def _snippet(card: str) -> str:
    """Return the card's lines that score a conversation, as a function of the messages."""
    block = re.search(r"```python\n(.*?)```", card, flags=re.DOTALL)
    assert block is not None
    lines = [line for line in block[1].splitlines() if not line.startswith("messages = ")]
    head = [line for line in lines if "import" in line or "from_pretrained" in line]
    body = [f"    {line}" for line in lines if line not in head]
    return "\n".join([*head, "def score(messages):", "    global outputs", *body, "    return scores, levels"])


@pytest.fixture(scope="module")
def elsewhere(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Any]]:
    """Export both models and use them without steerlm; returns the folder and what came out."""
    folder = tmp_path_factory.mktemp("elsewhere")
    export(steerable(folder / "sft"), folder / "steerable", dtype="float32")
    cuts = {"quality": (1.5, 2.25, 3.75, 4.5)}
    export(scorer(folder / "regression", SCORED, cut_points=cuts), folder / "scorer")
    tokenizer = load_tokenizer(folder / "sft")
    control = sorted({*tokenizer.all_special_tokens, *tokenizer.chat_control_tokens})
    values = {
        "INPUT": json.dumps([CHATS, SETTINGS, control]),
        "SCORED_INPUT": json.dumps(SCORED_CHATS),
    }
    code = _CODE.replace("SNIPPET", _snippet((folder / "scorer" / "README.md").read_text(encoding="utf-8")))
    code = "\n".join([*(f"{name} = {value!r}" for name, value in values.items()), code])
    return folder, without_steerlm(code, folder)


def test_prompts_are_ours(elsewhere: tuple[Path, list[Any]]) -> None:
    folder, (prompts, *_) = elsewhere
    for source in ("sft", "steerable"):  # the guard of the exported template changes nothing for us
        encoder = ConversationEncoder(load_tokenizer(folder / source), SCHEMA)
        ours = [encoder.prompt(_messages(chat), setting) for chat in CHATS for setting in SETTINGS]
        assert prompts == ours
    assert len({tuple(ids) for ids in prompts[:4]}) == 4, "every setting has a prompt of its own"


def test_greedy_answers_are_ours(elsewhere: tuple[Path, list[Any]]) -> None:
    folder, (_, replies, *_) = elsewhere
    engine = load_engine(folder / "sft", "fp32")
    requests = [Request(tuple(_messages(chat)), setting) for chat in CHATS for setting in SETTINGS]
    sampled = engine.generate(requests, Sampling(max_new_tokens=24, temperature=0))
    assert [engine.encoder.decode(ids) for ids in replies] == [sample.text for [sample] in sampled]
    assert len({tuple(ids) for ids in replies}) > 4


def test_control_tokens_in_messages_are_refused(elsewhere: tuple[Path, list[Any]]) -> None:
    _, (_, _, refused, _) = elsewhere
    assert len(refused) >= 3 * 7
    assert all(refused)


def test_the_lines_of_the_card_give_our_scores_and_levels(elsewhere: tuple[Path, list[Any]]) -> None:
    folder, (*_, results) = elsewhere
    model = load_attribute_model(folder / "regression", "fp32")
    scored = model.score([_messages(chat) for chat in SCORED_CHATS])
    # the guard of the exported template changes nothing for us
    again = load_attribute_model(folder / "scorer", "fp32").score([_messages(chat) for chat in SCORED_CHATS])
    assert again == scored
    for (outputs, scores, levels), ours in zip(results, scored, strict=True):
        assert ours is not None
        assert len(outputs) == 5
        assert levels == model.values(ours)
        for name in ("quality", "humor"):
            assert scores[name] == pytest.approx(ours[name].mean, abs=1e-5)
        assert scores["lang"] == pytest.approx(ours["lang"].probabilities, abs=1e-5)
    assert results[0][1] != results[1][1]


def test_a_conversation_that_ends_with_a_question_is_not_scored(elsewhere: tuple[Path, list[Any]]) -> None:
    folder, _ = elsewhere
    asked = [*SCORED_CHATS[0], {"role": "user", "content": "Why?"}]
    with pytest.raises(UserError, match="must end with an assistant turn"):
        load_attribute_model(folder / "scorer", "fp32").score([_messages(asked)])
    with pytest.raises(TemplateError, match="must end with an assistant turn"):
        AutoTokenizer.from_pretrained(folder / "scorer").apply_chat_template(asked)
    assert AutoTokenizer.from_pretrained(folder / "steerable").apply_chat_template(asked)


@pytest.mark.parametrize("model_type", ["llama", "gemma3_text"])
def test_a_server_finds_a_head_on_the_last_token(model_type: str, tmp_path: Path) -> None:
    """What vLLM's `classify` does: the language model's last hidden state of the last token times `score.weight`."""
    size = len(byte_tokenizer(SCORED))
    config = Gemma3TextConfig(
        vocab_size=size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, query_pre_attn_scalar=16, max_position_embeddings=512,
    )  # fmt: skip
    model = scorer(tmp_path / "model", SCORED, config if model_type == "gemma3_text" else None)
    export(model, tmp_path / "out")
    described = json.loads((tmp_path / "out" / "config.json").read_text(encoding="utf-8"))
    assert described["model_type"] == model_type
    assert described["problem_type"] == "regression", "else outputs go through a softmax"
    [architecture] = described["architectures"]
    assert architecture == {"llama": "Llama", "gemma3_text": "Gemma3"}[model_type] + "ForSequenceClassification"
    weights = load_file(tmp_path / "out" / "model.safetensors")
    assert [name for name in weights if not name.startswith("model.")] == ["score.weight"]
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    plain = AutoModelForSequenceClassification.from_pretrained(tmp_path / "out")
    ours = load_attribute_model(model, "fp32").score([_messages(chat) for chat in SCORED_CHATS])
    for chat, scores in zip(SCORED_CHATS, ours, strict=True):
        given = tokenizer.apply_chat_template(chat, return_dict=True, return_tensors="pt")
        with torch.no_grad():
            served = plain.model(**given).last_hidden_state[0, -1] @ weights["score.weight"].T
            torch.testing.assert_close(plain(**given).logits[0], served)
        assert scores is not None
        assert 1 + 4 * float(served[0]) == pytest.approx(scores["quality"].mean, abs=1e-5)
        assert served[1:4].softmax(-1).tolist() == pytest.approx(list(scores["lang"].probabilities.values()), abs=1e-5)
        assert 9 * float(served[4]) == pytest.approx(scores["humor"].mean, abs=1e-5)


def _messages(chat: list[dict[str, Any]]) -> list[Message]:
    return [Message(row["role"], row["content"], attributes=row.get("attributes")) for row in chat]

"""The in-process engine against Hugging Face's `generate`, and its promises on seeds, batches, prompts and text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy import stats
from transformers import BloomConfig, GPT2Config, MistralConfig, PreTrainedConfig, PreTrainedModel

from steerlm.attributes import OASST, Attribute, AttributeSchema
from steerlm.checkpoint.models import CheckpointInfo, load_causal_lm, load_tokenizer, resize_embeddings, save_model
from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.generation.decoding import Decoder
from steerlm.generation.engine import LocalEngine, Request, Sample, Sampling, load_engine, strip_label_echo
from steerlm.generation.prefill import BufferLayer
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.installing import install_template
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

TOKENIZER = byte_tokenizer(OASST)
ENCODER = ConversationEncoder(TOKENIZER, OASST)
VOCABULARY = len(TOKENIZER)
TEXTS = ["Hi", "Why is the sky blue, and why is it red at dusk?", "Tell me a joke.", "Name three rivers in Europe."]


def user(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


def llama(seed: int = 0, context: int = 512, scale: float = 0.3) -> PreTrainedModel:
    return random_model(tiny_llama_config(VOCABULARY, context), seed, scale)


def engine(model: PreTrainedModel, batch_size: int = 64) -> LocalEngine:
    return LocalEngine(model, TOKENIZER, OASST, batch_size)


class Calls:
    """Records the (rows, columns) of every forward pass of a model."""

    def __init__(self, model: PreTrainedModel) -> None:
        self.shapes: list[tuple[int, int]] = []
        model.register_forward_pre_hook(self._record, with_kwargs=True)

    def _record(self, module: object, args: object, kwargs: dict[str, torch.Tensor]) -> None:
        rows, columns = kwargs["input_ids"].shape
        self.shapes.append((rows, columns))

    @property
    def prompt_tokens(self) -> int:
        return sum(rows * columns for rows, columns in self.shapes if columns > 1)

    @property
    def decoded_rows(self) -> int:
        return sum(rows for rows, columns in self.shapes if columns == 1)


def scripted(monkeypatch: pytest.MonkeyPatch, ids: Sequence[int]) -> LocalEngine:
    """Return an engine whose every response is `ids`."""

    def decode(model: object, rows: Sequence[object], **arguments: object) -> object:
        stop_ids: frozenset[int] = arguments["stop_ids"]  # type: ignore[assignment]
        for index in ids:
            for row in rows:
                row.tokens.append(index)  # type: ignore[attr-defined]
                row.stopped = index in stop_ids  # type: ignore[attr-defined]
            yield []

    monkeypatch.setattr("steerlm.generation.decoding.decode", decode)
    return engine(llama())


def hugging_face_greedy(model: PreTrainedModel, encoder: ConversationEncoder, request: Request, new: int) -> list[int]:
    ids = encoder.prompt(request.messages, request.attributes)
    stop = sorted(encoder.control_ids)
    out = model.generate(
        torch.tensor([ids]), max_new_tokens=new, do_sample=False, eos_token_id=stop, pad_token_id=stop[0]
    )
    return out[0, len(ids) :].tolist()  # type: ignore[no-any-return]


CONFIGS: dict[str, PreTrainedConfig] = {
    "llama": tiny_llama_config(VOCABULARY),
    "sliding window": MistralConfig(
        vocab_size=VOCABULARY, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=4,
        num_key_value_heads=2, sliding_window=16, max_position_embeddings=512,
    ),
    "learnt positions": GPT2Config(vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256),
    "alibi": BloomConfig(vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4),
}  # fmt: skip


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_greedy_equals_generate(family: str, attention: str) -> None:
    config = CONFIGS[family]
    model = random_model(config, 5, 0.25)
    model.set_attn_implementation(attention)
    # mixed prompts, several settings of one prompt, and fewer places than rows: rows wait, enter and leave
    requests = [Request(user(text), wanted) for text in TEXTS for wanted in (None, {"humor": 3}, {})]
    samples = engine(model, batch_size=5).generate(requests, Sampling(40, temperature=0))
    lengths = set()
    for request, [sample] in zip(requests, samples, strict=True):
        expected = hugging_face_greedy(model, ENCODER, request, 40)
        assert sample == Sample(ENCODER.decode(expected), len(expected), expected[-1] in ENCODER.control_ids)
        lengths.add(len(expected))
    assert len({sample.text for [sample] in samples}) > 6
    assert len(lengths) > 1, "no response ended early: the test shows nothing about rows that leave"


def test_greedy_equals_generate_on_a_real_checkpoint(shared_models: Path) -> None:
    folder = shared_models / "stories260K"
    model, tokenizer = load_causal_lm(folder, "fp32"), load_tokenizer(folder)
    install_template(tokenizer, "steerlm", OASST)
    resize_embeddings(model, tokenizer)
    encoder = ConversationEncoder(tokenizer, OASST)
    texts = ["Once upon a time", "Lily and Tom went to the park. They saw a big dog and it", "One day"]
    requests = [Request(user(text), wanted) for text in texts for wanted in (None, {})]
    samples = LocalEngine(model, tokenizer, OASST, 4).generate(requests, Sampling(60, temperature=0))
    for request, [sample] in zip(requests, samples, strict=True):
        expected = hugging_face_greedy(model, encoder, request, 60)
        assert (sample.text, sample.num_tokens) == (encoder.decode(expected), len(expected))


def test_first_token_follows_the_model() -> None:
    model = llama(1, scale=0.15)
    request = Request(user("Hi"), None, num_samples=4000, seed=3)
    [samples] = engine(model, batch_size=1000).generate([request], Sampling(1, temperature=1.0, top_k=4))
    with torch.no_grad():
        logits = model(torch.tensor([ENCODER.prompt(request.messages, None)])).logits[0, -1]
    top = logits.topk(4)
    expected: dict[str, float] = {}
    for index, p in zip(top.indices.tolist(), torch.softmax(top.values.double(), 0).tolist(), strict=True):
        text = ENCODER.decode([index])  # single bytes of longer characters look alike
        expected[text] = expected.get(text, 0) + p
    assert len(expected) >= 3
    counts = {text: sum(sample.text == text for sample in samples) for text in expected}
    assert sum(counts.values()) == 4000
    assert stats.chisquare(list(counts.values()), np.array(list(expected.values())) * 4000).pvalue > 0.01


def test_a_seeded_sample_does_not_depend_on_its_company() -> None:
    model = llama(2)
    requests = [
        Request(user(text), {"quality": 4, "humor": humor}, num_samples=3, seed=seed)
        for seed, (text, humor) in enumerate((text, humor) for text in TEXTS for humor in (0, 4))
    ]
    sampling = Sampling(50, temperature=0.9, top_k=40, top_p=0.95)
    together = engine(model, batch_size=64).generate(requests, sampling)
    crowded = engine(model, batch_size=7).generate(requests, sampling)
    backwards = engine(model, batch_size=5).generate(requests[::-1], sampling)[::-1]
    alone = [engine(model, batch_size=1).generate([request], sampling)[0] for request in requests]
    assert together == crowded == backwards == alone
    assert len({sample.text for samples in together for sample in samples}) == 24
    other_seed = engine(model).generate([Request(user(TEXTS[0]), {"quality": 4, "humor": 0}, 3, seed=99)], sampling)
    assert not {s.text for s in other_seed[0]} & {s.text for s in together[0]}
    more = engine(model).generate([Request(user(TEXTS[0]), {"quality": 4, "humor": 0}, 5, seed=0)], sampling)
    assert more[0][:3] == together[0]


def test_each_prompt_is_computed_once() -> None:
    model = llama()
    calls = Calls(model)
    request = Request(user(TEXTS[1]), None, num_samples=9)
    engine(model, batch_size=4).generate([request, request], Sampling(3))
    assert calls.prompt_tokens == len(ENCODER.prompt(request.messages, None))


def test_settings_share_their_conversation() -> None:
    model = llama()
    calls = Calls(model)
    settings = [{"quality": 4, "humor": humor} for humor in range(5)]
    engine(model).generate([Request(user(TEXTS[1]), wanted) for wanted in settings], Sampling(3))
    prompts = [ENCODER.prompt(user(TEXTS[1]), wanted) for wanted in settings]
    shared = next(i for i, column in enumerate(zip(*prompts, strict=True)) if len(set(column)) > 1)
    rest = len(prompts[0]) - shared
    assert calls.prompt_tokens == shared + 5 * rest < 0.4 * sum(map(len, prompts))


def test_conversations_share_what_they_begin_with() -> None:
    model = llama(1, scale=0.25)
    calls = Calls(model)
    system = Message("system", "Speak plainly, as to a friend. " * 8)
    requests = [Request((system, *user(text)), {"humor": humor}) for text in TEXTS for humor in range(2)]
    together = engine(model).generate(requests, Sampling(6, temperature=0))
    prompts = [ENCODER.prompt(request.messages, {"humor": 0}) for request in requests]
    assert calls.prompt_tokens < len(prompts[0]) + sum(len(prompt) - 200 for prompt in prompts)
    alone = [engine(model).generate([request], Sampling(6, temperature=0)) for request in requests]
    assert together == [group for [group] in alone]


def test_finished_rows_leave_and_waiting_ones_enter() -> None:
    model = llama(2)
    calls = Calls(model)
    requests = [Request(user(text), {"humor": humor}, 8, seed=humor) for text in TEXTS for humor in range(5)]
    samples = engine(model, batch_size=16).generate(requests, Sampling(200))
    needed = sum(sample.num_tokens for group in samples for sample in group)
    longest = max(sample.num_tokens for group in samples for sample in group)
    assert longest * len(requests) * 8 > 2 * needed, "all responses are equally long: nothing to save"
    assert calls.decoded_rows < 1.3 * needed
    assert max(rows for rows, _ in calls.shapes) <= 20


def test_columns_that_only_a_finished_row_used_are_not_looked_at(monkeypatch: pytest.MonkeyPatch) -> None:
    widths: list[int] = []
    update = BufferLayer.update

    def recorded(layer: BufferLayer, *states: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        keys, values = update(layer, *states)
        widths.append(keys.shape[2])
        return keys, values

    monkeypatch.setattr(BufferLayer, "update", recorded)
    model = llama()
    sampler = engine(model)
    short, long = Request(user("Hi"), {}), Request(user("Why is the sky blue? " * 5), {})
    [rows, [brief]] = [
        [row for i in range(count) for row in sampler.draws(request, Sampling(new, temperature=0), (new, i))]
        for request, count, new in ((short, 7, 20), (long, 1, 3))
    ]
    decoder = Decoder(model, batch_size=8, stop_ids=frozenset())
    decoder.add([brief, *rows])
    while decoder.busy:
        decoder.step()
    assert [len(row.tokens) for row in (brief, *rows)] == [3, *[20] * 7]
    prompts = [len(row.lanes[0].prompt) for row in (brief, rows[0])]
    assert prompts[0] > prompts[1] + 20
    layers = len(widths) // 19
    assert widths[::layers] == [prompts[0] + 1, prompts[0] + 2, *range(prompts[1] + 3, prompts[1] + 20)]


def test_room_and_context() -> None:
    model = llama(context=96)
    local = engine(model)
    request = Request(user("x"), {})
    length = len(ENCODER.prompt(request.messages, {}))
    assert local.room(request) == 96 - length
    samples = local.generate([Request(user("x"), {}, 20)], Sampling(500, top_k=0))[0]
    assert max(sample.num_tokens for sample in samples) <= 96 - length
    assert any(not sample.finished and sample.num_tokens == 96 - length for sample in samples)
    too_long = Request(user("x" * 96), {})
    assert local.room(too_long) < 1
    with pytest.raises(UserError, match=r"the prompt has \d+ tokens and the model's context only 96"):
        local.generate([request, too_long], Sampling(5))


def test_a_tokenizer_may_know_of_fewer_tokens_than_the_model_has_positions() -> None:
    tokenizer, request = byte_tokenizer(OASST), Request(user("x"), {})
    tokenizer.model_max_length = 48
    local = LocalEngine(llama(context=96), tokenizer, OASST)
    length = len(ENCODER.prompt(request.messages, {}))
    assert (local.context, local.room(request)) == (48, 48 - length)
    [[sample]] = local.generate([request], Sampling(500, top_k=0))
    assert sample.num_tokens <= 48 - length
    with pytest.raises(UserError, match=r"the model's context only 48"):
        local.generate([Request(user("x" * 48), {})], Sampling(5))


@pytest.mark.parametrize("known", [None, 48])
def test_a_model_without_positions_has_the_limit_of_its_tokenizer_if_any(known: int | None) -> None:
    tokenizer, config = byte_tokenizer(OASST), BloomConfig(vocab_size=VOCABULARY, hidden_size=16, n_layer=1, n_head=2)
    if known is not None:
        tokenizer.model_max_length = known
    assert LocalEngine(random_model(config), tokenizer, OASST).context == known


def test_mistakes_are_named() -> None:
    local = engine(llama())
    with pytest.raises(UserError, match=r"humour.*humor"):
        local.generate([Request(user("Hi"), {"humour": 3})], Sampling(5))
    with pytest.raises(UserError, match="humor: 7"):
        local.generate([Request(user("Hi"), {"humor": 7})], Sampling(5))
    for wrong in ({"max_new_tokens": 0}, {"temperature": -1.0}, {"temperature": float("nan")}, {"top_k": -1}):
        with pytest.raises(UserError, match=next(iter(wrong))):
            Sampling(**{"max_new_tokens": 5, **wrong})  # type: ignore[arg-type]
    with pytest.raises(UserError, match="top_p"):
        Sampling(5, top_p=0.0)
    with pytest.raises(UserError, match="batch_size must be at least 1, got 0"):
        engine(llama(), batch_size=0)


def test_load_engine(tmp_path: Path) -> None:
    model = llama()
    info = CheckpointInfo("sft", OASST, "steerlm")
    save_model(tmp_path / "model", model, TOKENIZER, info, "card")
    loaded = load_engine(tmp_path / "model", "fp32", batch_size=2)
    requests = [Request(user(text), None) for text in TEXTS]
    assert loaded.schema == OASST
    assert loaded.generate(requests, Sampling(20)) == engine(model).generate(requests, Sampling(20))
    save_model(tmp_path / "scorer", model, TOKENIZER, CheckpointInfo("regression", OASST, "steerlm"), "card")
    with pytest.raises(UserError, match="is a regression attribute model"):
        load_engine(tmp_path / "scorer")


def test_stream_is_the_sample() -> None:
    local = engine(llama(2))
    for seed in range(4):
        request = Request(user("Hi"), {"humor": 1}, seed=seed)
        sampling = Sampling(60, top_k=0)
        pieces = list(local.stream(request, sampling))
        [[sample]] = local.generate([request], sampling)
        # random bytes: much of it is not valid UTF-8, and what is, spans several tokens
        assert "".join(pieces) == sample.text
        assert all(pieces)


@pytest.mark.parametrize("text", ["Grüße, 世界! 👩‍🚀 fine", "ends in bytes: é", "\ufffd inside", "two\n\nlines\n"])
def test_stream_never_splits_a_character(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    ids = [*TOKENIZER(text)["input_ids"], ENCODER.stop_ids[0]]
    pieces = list(scripted(monkeypatch, ids).stream(Request(user("Hi"), None), Sampling(100)))
    assert "".join(pieces) == text
    assert all("\ufffd" not in piece or "\ufffd" in text for piece in pieces)
    assert len(pieces) > 3


def test_text_is_not_tidied_up(monkeypatch: pytest.MonkeyPatch) -> None:
    said = "They do n't , you 're right ."
    force = "clean_up_tokenization_spaces_for_bpe_even_though_it_will_corrupt_output"
    for name in ("clean_up_tokenization_spaces", force):
        monkeypatch.setattr(TOKENIZER, name, True, raising=False)
    assert TOKENIZER.decode(TOKENIZER(said)["input_ids"]) == "They don't, you're right."
    local = scripted(monkeypatch, [*TOKENIZER(said)["input_ids"], ENCODER.stop_ids[0]])
    assert "".join(local.stream(Request(user("Hi"), None), Sampling(100))) == said


@pytest.mark.parametrize(
    ("said", "kept"),
    [
        ("An answer.\nquality:4,humor:0", "An answer."),
        ("An answer.\n\nquality:4\nhumor:0\n", "An answer."),
        ("quality:4,toxicity:0", ""),
        ("An answer.\nquality: 4", "An answer.\nquality: 4"),
        ("An answer.\nquality:9", "An answer.\nquality:9"),
        ("The text form is quality:4,humor:0", "The text form is quality:4,humor:0"),
        ("humor:3\nAn answer.\n", "humor:3\nAn answer.\n"),
        ("", ""),
    ],
)
def test_echoed_labels_are_stripped(said: str, kept: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert strip_label_echo(said, OASST) == kept
    local = scripted(monkeypatch, [*TOKENIZER(said)["input_ids"], ENCODER.stop_ids[0]])
    request = Request(user("Hi"), None)
    [[sample]] = local.generate([request], Sampling(100))
    assert sample.text == kept
    assert "".join(local.stream(request, Sampling(100))) == kept


def test_a_category_is_a_label_too() -> None:
    schema = AttributeSchema((Attribute("quality"), Attribute("lang", "categorical", categories=("en", "de"))))
    assert strip_label_echo("Ja.\nquality:0,lang:de", schema) == "Ja."
    assert strip_label_echo("Ja.\nlang:fr", schema) == "Ja.\nlang:fr"


def test_any_control_token_ends_a_response(monkeypatch: pytest.MonkeyPatch) -> None:
    model = llama()
    other = next(i for i in sorted(ENCODER.control_ids) if i not in ENCODER.stop_ids)
    with torch.no_grad():
        model.lm_head.weight[other] = 0
        model.lm_head.register_forward_hook(lambda m, a, out: out.index_fill(-1, torch.tensor([other]), 1e4))
    [[sample]] = engine(model).generate([Request(user("Hi"), None)], Sampling(20))
    assert sample == Sample("", 1, True)

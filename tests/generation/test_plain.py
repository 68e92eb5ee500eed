"""Plain models: an answer is a function of its conversation and its seed, whatever is answered beside it."""

from __future__ import annotations

import pytest
import torch
from transformers import GPT2Config

from steerlm.conversation import Message
from steerlm.generation.plain import PlainModel, Push
from steerlm.generation.requests import Sampling
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

CONTEXT = 96
SHORT = (Message("user", "Hi"),)
LONG = (Message("user", "x" * 60),)


@pytest.fixture(scope="module", params=["llama", "gpt2", "tokenizer"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> PlainModel:
    folder = tmp_path_factory.mktemp(request.param)
    tokenizer = byte_tokenizer(None)
    config = tiny_llama_config(len(tokenizer), CONTEXT)
    if request.param == "tokenizer":  # it alone knows how much the model can read
        config.max_position_embeddings, tokenizer.model_max_length = 512, CONTEXT
    if request.param == "gpt2":  # learned positions: there is none beyond the context
        config = GPT2Config(vocab_size=len(tokenizer), n_positions=CONTEXT, n_embd=32, n_layer=2, n_head=2)
        config.eos_token_id = config.bos_token_id = None
    random_model(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return PlainModel(folder, "fp32")


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_an_answer_does_not_depend_on_its_neighbours(model: PlainModel, temperature: float) -> None:
    sampling = Sampling(24, temperature, 0, 0.9)
    [alone] = model.answers([SHORT], [7], sampling)
    assert alone is not None
    [long_alone] = model.answers([LONG], [3], sampling)
    assert long_alone is not None
    assert long_alone.num_tokens < 24, "the context has no room for more"
    together = model.answers([LONG, SHORT, SHORT, (Message("user", "y" * 200),)], [3, 7, 8, 9], sampling)
    assert together[:2] == [long_alone, alone]
    assert together[3] is None, "the prompt fills the context"
    assert (together[2] == alone) == (temperature == 0), "every row is drawn with its own seed"


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_sampled_as_transformers_samples_where_each_row_is_pushed(model: PlainModel, temperature: float) -> None:
    conversations = [SHORT, (Message("user", "Tell me a joke."),), LONG, SHORT]
    sampling = Sampling(20, temperature, 40, 0.95)
    nowhere = [Push(0, torch.zeros(len(conversations), 32))]
    assert model.answers(conversations, [1, 2, 3, 4], sampling) == model.answers(
        conversations, [1, 2, 3, 4], sampling, nowhere
    )

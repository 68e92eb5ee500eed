"""DPO and RLOO through TRL on a tiny model: they see our ids, count what they spend, and learn what they should."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
import torch

from steerlm.attributes import Attribute, AttributeSchema
from steerlm.checkpoint.models import CheckpointInfo, load_causal_lm, load_info, resize_embeddings, save_model
from steerlm.config import BaselinesConfig, TrainSftConfig
from steerlm.conversation import Message, Score
from steerlm.results.codec import read_result, write_result
from steerlm.results.studies import TrialCourse
from steerlm.studies.baselines import trainers
from steerlm.studies.baselines.encoding import EncodedPair, encode_pair
from steerlm.studies.baselines.preferences import Pair
from steerlm.studies.baselines.reward import mean_of_known, reward_of
from steerlm.template.conversation_encoder import ConversationEncoder
from tests.tiny import byte_tokenizer, random_model, tiny_llama_config

SCHEMA = AttributeSchema((Attribute("quality", best="max"), Attribute("toxicity", best="min")))
CONFIG = BaselinesConfig(dpo_batch_size=4, rloo_batch_size=16, num_generations=4, rloo_beta=0.0)
SFT = TrainSftConfig(base_model="unused", warmup_steps=1, precision="fp32", adam_beta2=0.98)
QUESTIONS = [Message("user", text) for text in ("Hi <|end|>", "Why?", "What is <|user|> this?", "Oh.")]


@pytest.fixture(scope="module")
def policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain checkpoint with random weights."""
    folder = tmp_path_factory.mktemp("policy") / "model"
    tokenizer = byte_tokenizer(SCHEMA)
    model = random_model(tiny_llama_config(len(tokenizer), context=128), scale=0.1)
    resize_embeddings(model, tokenizer)
    save_model(folder, model, tokenizer, CheckpointInfo("sft", SCHEMA, "steerlm", conditioning=False), "card")
    return folder


@pytest.fixture(scope="module")
def encoder() -> ConversationEncoder:
    return ConversationEncoder(byte_tokenizer(SCHEMA), SCHEMA)


@pytest.fixture(scope="module")
def pairs(encoder: ConversationEncoder) -> list[EncodedPair]:
    found = [encode_pair(encoder, Pair((question,), "aaaa", "zzzz"), 128) for question in QUESTIONS]
    return [pair for pair in found if pair is not None]


def preference(model: Any, pairs: Sequence[EncodedPair]) -> float:
    """How much likelier the chosen answers are than the rejected ones, in nats per pair."""

    def log_probability(prompt: list[int], response: list[int]) -> float:
        ids = torch.tensor([prompt + response])
        with torch.no_grad():
            logits = model(input_ids=ids).logits[0, len(prompt) - 1 : -1]
        return float(torch.log_softmax(logits, -1).gather(1, ids[0, len(prompt) :, None]).sum())

    return sum(
        log_probability(pair.prompt_ids, pair.chosen_ids) - log_probability(pair.prompt_ids, pair.rejected_ids)
        for pair in pairs
    ) / len(pairs)


def test_dpo_sees_our_ids_learns_the_order_and_stops_when_its_budget_is_spent(
    policy: Path, pairs: list[EncodedPair], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[list[int], int]] = []
    training_step = trainers.PreparedDPOTrainer.training_step

    def spy(self: Any, model: Any, inputs: Any, *rest: Any, **more: Any) -> Any:
        for ids, mask, completion in zip(
            inputs["input_ids"], inputs["attention_mask"], inputs["completion_mask"], strict=True
        ):
            seen.append((ids[mask.bool()].tolist(), int(completion.sum())))
        return training_step(self, model, inputs, *rest, **more)

    monkeypatch.setattr(trainers.PreparedDPOTrainer, "training_step", spy)
    epoch = sum(pair.tokens for pair in pairs)
    course = trainers.train_dpo(policy, pairs, CONFIG, SFT, 1e-3, tmp_path, 10 * epoch, seed=0)
    assert course == TrialCourse(learning_rate=1e-3, epochs=10.0, steps=10, trained_tokens=10 * epoch, sampled_tokens=0)
    expected = [(p.prompt_ids + ids, len(ids)) for p in pairs for ids in (p.chosen_ids, p.rejected_ids)]
    assert sorted(seen[:8]) == sorted(expected)
    before, after = (preference(load_causal_lm(folder), pairs) for folder in (policy, tmp_path / "model"))
    assert after > before + 1
    info = load_info(tmp_path / "model")
    assert (info.conditioning, info.provenance["tuned"]["method"]) == (False, "dpo")


def test_rloo_samples_from_our_ids_and_learns_what_is_rewarded(
    policy: Path, encoder: ConversationEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = [((question,), encoder.prompt([question], {})) for question in QUESTIONS]
    asked: list[tuple[tuple[Message, ...], str]] = []
    generated: list[Any] = []
    generate = trainers.PreparedRLOOTrainer._generate

    def spy(self: Any, numbers: list[str]) -> Any:
        output = generate(self, numbers)
        generated.append((numbers, output))
        return output

    def reward(answers: Sequence[tuple[tuple[Message, ...], str]]) -> list[float]:
        asked.extend(answers)
        return [sum(character < "n" for character in text) / 12 for _, text in answers]

    monkeypatch.setattr(trainers.PreparedRLOOTrainer, "_generate", spy)
    course = trainers.train_rloo(
        policy, prompts, reward, encoder.decode, CONFIG, SFT, 12, 3e-3, tmp_path, 16 * 1300, seed=0
    )
    position = 0
    for numbers, (prompt_ids, completion_ids, _) in generated:
        assert prompt_ids == [prompts[int(number)][1] for number in numbers]
        for number, ids in zip(numbers, completion_ids, strict=True):
            assert asked[position] == (prompts[int(number)][0], encoder.decode(ids))
            position += 1
    sampled = sum(len(ids) for _, (_, completions, _) in generated for ids in completions)
    given = sum(len(ids) for _, (prompt_ids, _, _) in generated for ids in prompt_ids)
    assert (course.sampled_tokens, course.trained_tokens) == (sampled, sampled + given)
    # it ends with the first step that passes the budget
    assert 16 * 1300 <= 2 * sampled + given < 16 * 1300 * (1 + 1 / (course.steps - 1))
    assert course.last_reward is not None
    assert course.first_reward is not None
    assert course.last_reward > course.first_reward + 0.05


def test_a_course_without_a_logged_reward_has_none(
    policy: Path, encoder: ConversationEncoder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(trainers, "trained_weights", lambda trainer: trainer.model.state_dict())  # nothing is logged
    prompts = [((question,), encoder.prompt([question], {})) for question in QUESTIONS]
    course = trainers.train_rloo(
        policy,
        prompts,
        lambda answers: [],
        encoder.decode,
        CONFIG,
        SFT,
        12,
        3e-3,
        tmp_path,
        1,
        seed=0,
    )
    assert (course.first_reward, course.last_reward) == (None, None)
    write_result(tmp_path / "trial.json", course)
    assert read_result(TrialCourse, tmp_path / "trial.json") == course


def test_a_mean_is_of_the_rewards_that_are_known() -> None:
    assert mean_of_known([None, -0.5, -0.25]) == -0.375
    assert mean_of_known([None, None]) is None


class FixedScores:
    """An attribute model that knows a few words."""

    schema = SCHEMA
    words: ClassVar[dict[str, Score]] = {"good": Score(3.5, 0.1), "bad": Score(0.5, 0.1)}

    def score(self, conversations: Sequence[Any]) -> list[Any]:
        return [  # as every scorer: none for a turn without text
            {"quality": self.words[messages[-1].content], "toxicity": Score(1.0, 0.1)}
            if messages[-1].content in self.words
            else None
            for messages in conversations
        ]


def test_the_reward_is_the_predicted_level_and_nothing_for_no_answer() -> None:
    texts = ["good", "  ", "unscorable", "bad"]
    answers = [((QUESTIONS[0],), text) for text in texts]
    scorer: Any = FixedScores()
    assert reward_of(scorer, ("quality",))(answers) == [3.5, 0.0, 0.0, 0.5]
    assert reward_of(scorer, ("quality", "toxicity"))(answers) == [3.25, 0.0, 0.0, 1.75]

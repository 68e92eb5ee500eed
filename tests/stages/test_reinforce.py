"""Reinforcement with one reward per attribute on a tiny model: what is asked, learned, reported and resumed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from steerlm.checkpoint.models import load_causal_lm, load_info, load_tokenizer
from steerlm.config import ReinforceConfig
from steerlm.errors import UserError
from steerlm.scorers import rewards as reward_module
from steerlm.stages.reinforce import trainer as grpo
from steerlm.stages.reinforce.stage import draw_asks, reinforce
from steerlm.template.conversation_encoder import ConversationEncoder
from tests.stages.conftest import TOY
from tests.stages.refine.test_refine import command

CONFIG = ReinforceConfig(
    steps=6, batch_size=8, num_generations=4, max_new_tokens=24, learning_rate=1e-3, beta=0.0, save_steps=2
)


@pytest.fixture(scope="module")
def finished(toy_world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Any]:
    out = tmp_path_factory.mktemp("finished") / "reinforce"
    return out, reinforce(CONFIG, out=out, **toy_world)


def test_all_prompts_come_at_settings_of_the_data(toy_world: Any) -> None:
    encoder = ConversationEncoder(load_tokenizer(toy_world["steerable_model"]), TOY)
    settings = [{"quality": q, "humor": h} for q in (1, 4) for h in (0, 1)]
    asks = draw_asks(encoder, toy_world["data"], TOY, settings, 100, 24, 0)
    rounds = [asks[i : i + 8] for i in (0, 8, 16)]
    said = [[ask.messages for ask in part] for part in rounds]
    assert said[0] == said[1] == said[2]
    assert len(set(said[0])) == 8
    assert [ask.requested for ask in rounds[0]] != [ask.requested for ask in rounds[1]]
    assert all(ask.requested in settings for ask in asks)
    assert asks[0].ids == encoder.prompt(asks[0].messages, asks[0].requested)
    with pytest.raises(UserError, match=r"no prompt of .* leaves room"):
        draw_asks(encoder, toy_world["data"], TOY, settings, 5, 24, 0)


def test_every_attribute_has_its_reward_and_the_dials_stay(finished: tuple[Path, Any], toy_world: Any) -> None:
    out, report = finished
    course = report["training"]
    assert course["steps"] == 6
    assert course["sampled_tokens"] > 0
    assert set(course["first_rewards"]) == set(course["last_rewards"]) == {"quality", "humor"}
    assert all(-1 <= value <= 0 for value in course["first_rewards"].values())
    info = load_info(out / "model")
    assert info.conditioning
    assert info.provenance["tuned"]["method"] == "grpo"
    assert info.label_statistics == load_info(toy_world["steerable_model"]).label_statistics
    before, after = (load_causal_lm(path).state_dict() for path in (toy_world["steerable_model"], out / "model"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    assert report["held_out"]["error"]["mean"]["difference"]["n"] > 0


def test_what_is_rewarded_is_learned(toy_world: Any, tmp_path: Path) -> None:
    """A reward that wants the front half of the alphabet at quality 4 and the other at quality 1."""
    encoder = ConversationEncoder(load_tokenizer(toy_world["steerable_model"]), TOY)
    settings = [{"quality": q, "humor": 0} for q in (1, 4)]
    config = CONFIG.model_copy(
        update={"steps": 20, "batch_size": 16, "learning_rate": 3e-3, "temperature": 2.0, "save_steps": 100}
    )
    asks = draw_asks(encoder, toy_world["data"], TOY, settings, 100, 80, 0)

    def quality(prompts: Any, completions: Any, attributes: Any, **columns: Any) -> list[float | None]:
        return [
            -sum((character < "n") != (row["quality"] == 4) for character in text) / 24 - (24 - len(text)) / 24
            for text, row in zip(completions, attributes, strict=True)
        ]

    rewards: list[reward_module.RewardFunction] = [quality]
    sft = toy_world["sft"]
    done = grpo.train_grpo(
        toy_world["steerable_model"], asks, rewards, encoder.decode, config, sft, tmp_path, 0, budget=None
    )
    assert done.course["last_rewards"]["quality"] > done.course["first_rewards"]["quality"]
    spent = grpo.train_grpo(
        toy_world["steerable_model"], asks, rewards, encoder.decode, config, sft, tmp_path / "b", 0, budget=1
    )
    assert spent.course["steps"] == 1, "the budget is spent"


@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no SIGKILL on this system")
@pytest.mark.slow
def test_a_killed_run_goes_on_from_its_checkpoint(finished: tuple[Path, Any], toy_world: Any, tmp_path: Path) -> None:
    arguments = command(CONFIG, toy_world, tmp_path, "reinforce")
    code = (
        "import os, signal, sys\n"
        "from steerlm.__main__ import main\n"
        "from steerlm.stages.reinforce import trainer\n"
        "save, left = trainer.mark_complete, [1]\n"
        "def die(folder):\n"
        "    left[0] -= 1\n"
        "    if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)\n"
        "    save(folder)\n"
        "trainer.mark_complete = die\n"
        "sys.exit(main(sys.argv[1:]))\n"
    )
    killed = subprocess.run([sys.executable, "-c", code, *arguments], env=os.environ, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert sorted(path.name for path in (tmp_path / "trl").glob("checkpoint-*")) == ["checkpoint-2", "checkpoint-4"]
    whole = [sys.executable, "-m", "steerlm", *arguments]
    done = subprocess.run(whole, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "checkpoint-4 is incomplete" in done.stderr
    assert "6 steps; rewards: quality" in done.stdout
    ours, whole_run = (load_causal_lm(folder / "model").state_dict() for folder in (tmp_path, finished[0]))
    for name in ours:
        torch.testing.assert_close(ours[name], whole_run[name], rtol=1e-4, atol=1e-5)


def test_mistakes_are_named(toy_world: Any, tmp_path: Path, finished: tuple[Path, Any]) -> None:
    with pytest.raises(UserError, match=r"other inputs \(different: seed\)"):
        reinforce(CONFIG, **{**toy_world, "out": finished[0], "seed": 9})
    with pytest.raises(UserError, match="was not trained with attributes"):
        reinforce(CONFIG, **{**toy_world, "out": tmp_path, "steerable_model": toy_world["attribute_model"]})
    with pytest.raises(ValueError, match="no multiple of num_generations"):
        ReinforceConfig(batch_size=6, num_generations=4)

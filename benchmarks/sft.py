"""Conditioned fine-tuning: `train-sft` against TRL's SFTTrainer, as it comes and in its best correct setting.

    python -m benchmarks.sft [--quick] [--pairs 5] [--device cuda]

Both sides get the same weights, the same token ids and the same labels, and train in bf16 autocast over fp32 weights
with AdamW. Counted are real tokens (no padding) of the optimizer steps after the warm-up. On a GPU a model of a billion
parameters is trained too, and its model FLOP utilisation is recorded.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import Clock, shuffled_batches, watch
from benchmarks.harness import Benchmark, Case, Contestant, Job, Measurement, NotRun, main
from benchmarks.synthetic import SIZES, conversations, make_tokenizer, save_base_model
from steerlm.attributes import AttributeSchema
from steerlm.config import TrainSftConfig
from steerlm.conversation import write_conversations
from steerlm.template.conversation_encoder import ConversationEncoder

SCHEMA = AttributeSchema.preset("helpsteer")
LEARNING_RATE = 3e-4
PEAK_FLOPS = {"H100": 989e12, "H200": 989e12, "A100": 312e12, "L40S": 362e12, "RTX 4090": 165e12}
"""Dense bf16 operations per second, by a part of the device's name."""


@dataclasses.dataclass(frozen=True)
class Setting:
    """Size of a case.

    Attributes:
        size: of the model.
        responses: per prompt.
        warmup_steps: not measured.
        timed_tokens: real tokens that are, at least.
        tokens_per_batch: our budget.
    """

    size: str
    responses: int
    warmup_steps: int
    timed_tokens: int
    tokens_per_batch: int


SETTINGS = {
    "6m": Setting("6m", 1, 2, 14_000, 4096),
    "6m-8": Setting("6m", 8, 2, 14_000, 4096),
    "80m": Setting("80m", 1, 1, 4_000, 4096),
    "80m-8": Setting("80m", 8, 1, 4_000, 4096),
    "1b": Setting("1b", 1, 3, 400_000, 32768),
    "1b-8": Setting("1b", 8, 3, 400_000, 32768),
}
CONVERSATIONS, QUICK_CONVERSATIONS = 768, 96
QUICK = Setting("tiny", 0, 1, 2_000, 2048)

DEFAULT = "TRL SFTTrainer, its defaults (batch 8, random order, gradient checkpointing, loss on all tokens)"
BEST = "TRL SFTTrainer, group_by_length, loss on completions, no gradient checkpointing, its fastest batch size"
US = "steerlm train-sft"


def _case(description: str, default: float | None, best: float, sizes: tuple[str, ...]) -> Case:
    contestants = {"steerlm": Contestant(US)}
    if default is not None:
        contestants["trl_default"] = Contestant(DEFAULT, default)
    contestants["trl_best"] = Contestant(BEST, best, sizes)
    return Case(description, contestants, ("cuda",) if description.startswith("1 B") else ("cpu",))


CASES = {
    "6m": _case("6 M parameters, vocabulary 4 k, one response per prompt", 3.0, 1.5, ("8", "16")),
    "80m": _case("80 M parameters, vocabulary 32 k, one response per prompt", 3.0, 1.5, ("4", "8")),
    "6m-8": _case("6 M parameters, vocabulary 4 k, 8 responses per prompt", None, 2.5, ("8", "16")),
    "80m-8": _case("80 M parameters, vocabulary 32 k, 8 responses per prompt", None, 2.5, ("4", "8")),
}
GPU_CASES = {
    "1b": _case("1 B parameters, vocabulary 32 k, one response per prompt", 3.0, 1.5, ("16", "32", "64")),
    "1b-8": _case("1 B parameters, vocabulary 32 k, 8 responses per prompt", None, 2.5, ("16", "32", "64")),
}


def setting_of(name: str, quick: bool) -> Setting:
    """Return the size of a case; quick ones are all of the smallest model."""
    full = SETTINGS[name]
    return dataclasses.replace(QUICK, responses=full.responses) if quick else full


def prepare(folder: Path, cases: Sequence[str], quick: bool, device: str) -> None:
    """Write base models, conversations, and the ids that our encoder makes of them, for TRL."""
    count = QUICK_CONVERSATIONS if quick else CONVERSATIONS
    if device == "cuda" and not quick:
        count *= 16
    for name in cases:
        setting = setting_of(name, quick)
        base = folder / f"base-{setting.size}"
        tokenizer = make_tokenizer(SIZES[setting.size].vocab_size, SCHEMA)
        if not base.is_dir():
            save_base_model(base, SIZES[setting.size], tokenizer)
        data = folder / name
        data.mkdir()
        rows = list(conversations(tokenizer, SCHEMA, count // setting.responses, setting.responses))
        write_conversations(data / "train.jsonl", rows, SCHEMA)
        held_out = conversations(tokenizer, SCHEMA, 4, 1, seed=1)
        write_conversations(data / "validation.jsonl", held_out, SCHEMA)
        encoder = ConversationEncoder(tokenizer, SCHEMA)
        with (data / "encoded.jsonl").open("w", encoding="utf-8") as stream:
            for row in rows:
                encoded = encoder.conversation(row.messages)
                mask = [int(trained) for trained in encoded.loss_mask]
                stream.write(json.dumps({"input_ids": list(encoded.input_ids), "completion_mask": mask}) + "\n")


def measure(job: Job) -> Measurement:
    """Train as much as is to be measured."""
    setting = setting_of(job.case, job.quick)
    clock = Clock(setting.warmup_steps, setting.timed_tokens)
    if job.contestant == "steerlm":
        _ours(job, setting, clock)
    else:
        _trl(job, setting, clock)
    facts: dict[str, Any] = {**clock.facts(), "threads": torch.get_num_threads()}
    rate = clock.timed_tokens / clock.seconds
    if job.device == "cuda" and setting.responses == 1:
        facts["model_flop_utilisation"] = _utilisation(rate, setting)
    return Measurement(rate, facts)


def _ours(job: Job, setting: Setting, clock: Clock) -> None:
    """Run the stage as `steerlm train-sft` does."""
    from steerlm.stages.train_sft import train_sft

    data = job.folder / job.case
    config = TrainSftConfig(
        base_model=str(job.folder / f"base-{setting.size}"),
        learning_rate=LEARNING_RATE,
        lr_schedule="constant",
        warmup_steps=0,
        max_length=1024,
        tokens_per_batch=setting.tokens_per_batch,
        precision="bf16",
        # TRL gets fixed ids; whole headers make ours the same
        attribute_dropout=0.0,
        header_dropout=0.0,
    )
    out = data / f"steerlm-{job.round}"
    watch(
        clock,
        lambda: train_sft(config, data / "train.jsonl", data / "validation.jsonl", SCHEMA, out, max(job.round, 0)),
    )


def _trl(job: Job, setting: Setting, clock: Clock) -> None:
    """Run TRL's trainer on the same ids."""
    try:
        from datasets import Dataset, disable_progress_bars
        from trl import SFTConfig, SFTTrainer
    except ImportError as missing:
        raise NotRun(f"{missing.name} is not installed: pip install 'steerlm[baselines,data]'") from None
    disable_progress_bars()
    best = job.contestant == "trl_best"
    lines = (job.folder / job.case / "encoded.jsonl").read_text(encoding="utf-8").splitlines()
    columns = ("input_ids", "completion_mask") if best else ("input_ids",)
    rows = Dataset.from_list([{key: row[key] for key in columns} for row in map(json.loads, lines)])
    common: dict[str, Any] = {
        "output_dir": str(job.folder / "trl"),
        "learning_rate": LEARNING_RATE,
        "lr_scheduler_type": "constant",
        "max_steps": 10_000,
        "seed": max(job.round, 0),
        "report_to": [],
        "save_strategy": "no",
        "disable_tqdm": True,
        "use_cpu": job.device == "cpu",
        "dataloader_pin_memory": job.device == "cuda",
    }
    if best:
        common |= {
            "per_device_train_batch_size": int(job.variant),
            "gradient_checkpointing": False,
            "completion_only_loss": True,
            "train_sampling_strategy": "group_by_length",
        }

    class Watched(SFTTrainer):  # type: ignore[misc]
        """Shows its batches in random order, so that those that are measured are typical."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            order = list(super()._get_train_sampler(train_dataset))
            return shuffled_batches(order, self.args.per_device_train_batch_size, self.args.seed)

    def train() -> None:
        trainer = Watched(model=str(job.folder / f"base-{setting.size}"), args=SFTConfig(**common), train_dataset=rows)
        trainer.train()

    watch(clock, train)


def _utilisation(rate: float, setting: Setting) -> float | None:
    """Return the share of the device's peak that the model's own operations take (Chowdhery et al., 2022).

    Six operations per weight and token, the output embedding's only at the third of the tokens that is trained, and
    causal attention to half of 288 tokens on average.
    """
    size = SIZES[setting.size]
    name = torch.cuda.get_device_name()
    peak = next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)
    if peak is None:
        return None
    key_value = 2 * size.hidden * size.hidden * size.kv_heads // size.heads
    layer = 2 * size.hidden * size.hidden + key_value + 3 * size.hidden * size.intermediate
    weights = size.layers * layer + size.vocab_size * size.hidden / 3
    attention = size.layers * 2 * size.hidden * 288 / 2
    return round(6 * rate * (weights + attention) / peak, 3)


BENCHMARK = Benchmark(
    "sft", "Conditioned SFT", "real tokens", {**CASES, **GPU_CASES}, prepare, measure,
)  # fmt: skip

if __name__ == "__main__":
    main(BENCHMARK)

"""Fine-tuning of a real model with a vocabulary of 262,144 tokens: `train-sft` against TRL, and against itself before.

    STEERLM_GEMMA=FOLDER python -m benchmarks.large_vocabulary [--quick] [--pairs 5]

Model and text are those of `benchmarks.real_model`. Counted are real tokens of the optimizer steps after the warm-up; a
shared prompt counts as often as it occurs. Recorded beside the rates is the largest memory of the process.
"""

from __future__ import annotations

import dataclasses
import json
import os
import resource
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.clock import Clock, shuffled_batches, watch
from benchmarks.harness import ROOT, Benchmark, Case, Contestant, Job, Measurement, NotRun, main
from benchmarks.real_model import BASE, DESCRIPTION, conversations
from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.models import load_tokenizer
from steerlm.config import LoraSection, TrainSftConfig
from steerlm.conversation import write_conversations

SCHEMA = AttributeSchema.preset("helpsteer")
BEFORE = "e0dbea7"
"""Commit before the loss was computed in pieces."""

CONVERSATIONS, QUICK_CONVERSATIONS = 640, 96
TOKENS_PER_BATCH = {"lora": 512, "lora-8": 1024, "full": 1024}
"""Of ours by case: with adapters as in `recipes/gemma_270m.yaml`; eight responses are longer than that."""
RANK = 16

US = "steerlm train-sft, LoRA of rank 16"
FULL = "steerlm train-sft, all weights"
EARLIER = f"the same at commit {BEFORE}, its fastest tokens_per_batch"
TRL = "TRL SFTTrainer with peft, group_by_length, loss on completions, bf16 weights, its fastest batch size"


def _case(description: str, *, before: float | None, trl: float) -> Case:
    contestants = {"steerlm": Contestant(US)}
    if before is not None:
        contestants["before"] = Contestant(EARLIER, before, ("512", "1024"))
    contestants["trl"] = Contestant(TRL, trl, ("4", "8"))
    return Case(description, contestants, ("cpu",))


CASES = {
    "lora": _case(f"{DESCRIPTION}, LoRA, one response per prompt", before=3.0, trl=2.5),
    "lora-8": _case(f"{DESCRIPTION}, LoRA, 8 responses per prompt", before=None, trl=4.0),
    "full": Case(f"{DESCRIPTION}, all weights", {"steerlm": Contestant(FULL)}, ("cpu",)),
}


def _responses(case: str) -> int:
    return 8 if case.endswith("-8") else 1


def prepare(folder: Path, cases: Sequence[str], quick: bool, device: str) -> None:
    """Write conversations, the ids that our encoder makes of them, for TRL, and the code as it was before."""
    # not above: the code as it was before imports this file, and has no such modules
    from steerlm.template.conversation_encoder import ConversationEncoder
    from steerlm.template.installing import install_template

    tokenizer = load_tokenizer(BASE)
    install_template(tokenizer, "steerlm", SCHEMA)
    encoder = ConversationEncoder(tokenizer, SCHEMA)
    tokenizer.save_pretrained(folder / "tokenizer")
    for name in cases:
        data = folder / name
        data.mkdir()
        count = QUICK_CONVERSATIONS if quick else CONVERSATIONS
        rows = list(conversations(tokenizer, SCHEMA, count // _responses(name), _responses(name)))
        write_conversations(data / "train.jsonl", rows, SCHEMA)
        write_conversations(data / "validation.jsonl", list(conversations(tokenizer, SCHEMA, 4, 1, seed=1)), SCHEMA)
        with (data / "encoded.jsonl").open("w", encoding="utf-8") as stream:
            for row in rows:
                encoded = encoder.conversation(row.messages)
                mask = [int(trained) for trained in encoded.loss_mask]
                stream.write(json.dumps({"input_ids": list(encoded.input_ids), "completion_mask": mask}) + "\n")
    archive = subprocess.run(["git", "archive", BEFORE, "src"], cwd=ROOT, capture_output=True, check=False)
    if archive.returncode == 0:
        (folder / "before").mkdir()
        subprocess.run(["tar", "-x", "-C", str(folder / "before")], input=archive.stdout, check=True)


def measure(job: Job) -> Measurement:
    """Train as much as is to be measured."""
    if job.contestant == "before":
        return _before(job)
    # on its first steps ours finds out how many threads are fastest
    warmup = 6 if job.contestant == "steerlm" and not job.earlier else 1
    clock = Clock(warmup, 1_000 if job.quick else 4_000 if _responses(job.case) == 1 else 8_000)
    if job.contestant == "steerlm":
        _ours(job, clock)
    else:
        _trl(job, clock)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 2**20
    facts = {**clock.facts(), "peak_gib": round(peak, 2), "threads": torch.get_num_threads()}
    rate = clock.timed_tokens / clock.seconds
    return Measurement(rate, {**facts, "tokens_per_second": round(rate, 1)})


def _before(job: Job) -> Measurement:
    """Let the same script train with the package as it was."""
    source = job.folder / "before" / "src"
    if not source.is_dir():
        raise NotRun(f"this clone does not have commit {BEFORE}")
    request = job.folder / "before.json"
    ours = {"contestant": "steerlm", "earlier": True, "folder": str(job.folder)}
    request.write_text(json.dumps({**dataclasses.asdict(job), **ours}), encoding="utf-8")
    subprocess.run(
        [sys.executable, "-m", "benchmarks.large_vocabulary", "--job", str(request)],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": str(source)}, check=True,
    )  # fmt: skip
    return Measurement(**json.loads((job.folder / "answer.json").read_text(encoding="utf-8")))


def _ours(job: Job, clock: Clock) -> None:
    """Run the stage as `steerlm train-sft` does."""
    from steerlm.stages.train_sft import train_sft

    data = job.folder / job.case
    config = TrainSftConfig(
        base_model=BASE,
        template="steerlm",
        learning_rate=1e-4,
        lr_schedule="constant",
        warmup_steps=0,
        max_length=1024,
        tokens_per_batch=int(job.variant or TOKENS_PER_BATCH[job.case]),
        precision="bf16",
        lora=None if job.case == "full" else LoraSection(rank=RANK, alpha=2 * RANK),
        # TRL gets fixed ids; whole headers make ours the same
        attribute_dropout=0.0,
        header_dropout=0.0,
    )
    out = data / f"{'before' if job.earlier else 'steerlm'}-{job.round}-{job.variant}"
    watch(
        clock,
        lambda: train_sft(config, data / "train.jsonl", data / "validation.jsonl", SCHEMA, out, max(job.round, 0)),
    )


def _trl(job: Job, clock: Clock) -> None:
    """Run TRL's trainer on the same ids."""
    try:
        from datasets import Dataset, disable_progress_bars
        from peft import LoraConfig
        from transformers import AutoModelForCausalLM, AutoTokenizer
        from trl import SFTConfig, SFTTrainer
    except ImportError as missing:
        raise NotRun(f"{missing.name} is not installed: pip install 'steerlm[baselines,data,lora]'") from None
    disable_progress_bars()
    lines = (job.folder / job.case / "encoded.jsonl").read_text(encoding="utf-8").splitlines()
    rows = Dataset.from_list([json.loads(line) for line in lines])
    tokenizer = AutoTokenizer.from_pretrained(job.folder / "tokenizer")
    config = SFTConfig(
        output_dir=str(job.folder / "trl"),
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_steps=10_000,
        seed=max(job.round, 0),
        report_to=[],
        save_strategy="no",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
        per_device_train_batch_size=int(job.variant),
        gradient_checkpointing=False,
        completion_only_loss=True,
        train_sampling_strategy="group_by_length",
        bf16=True,
    )

    class Watched(SFTTrainer):  # type: ignore[misc]
        """Shows its batches in random order, so that those that are measured are typical."""

        def _get_train_sampler(self, train_dataset: Any = None) -> Any:
            order = list(super()._get_train_sampler(train_dataset))
            return shuffled_batches(order, self.args.per_device_train_batch_size, self.args.seed)

    def train() -> None:
        model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.bfloat16)
        model.resize_token_embeddings(max(len(tokenizer), model.get_input_embeddings().num_embeddings))
        # its loss in pieces cannot read an output layer with trained rows: it trains none, which is less work
        lora = LoraConfig(
            r=RANK, lora_alpha=2 * RANK, lora_dropout=0.0, target_modules="all-linear", task_type="CAUSAL_LM",
        )  # fmt: skip
        Watched(model=model, args=config, train_dataset=rows, peft_config=lora, processing_class=tokenizer).train()

    watch(clock, train)


BENCHMARK = Benchmark(
    "large_vocabulary", "Fine-tuning with a large vocabulary", "real tokens", CASES, prepare, measure,
)  # fmt: skip

if __name__ == "__main__":
    main(BENCHMARK)

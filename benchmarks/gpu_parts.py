"""The parts of `benchmarks.gpu` that compare with nobody: correctness, memory beside the plan, all steps of a recipe.

python -m benchmarks.gpu_parts checks|memory|gemma --device cuda --out FILE [--tiny] [--gemma FOLDER]
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from benchmarks import planning
from benchmarks.harness import NotRun
from benchmarks.synthetic import SIZES, conversations, make_config, make_tokenizer, save_attribute_model
from steerlm.attributes import AttributeSchema
from steerlm.errors import UserError

SCHEMA = AttributeSchema.preset("helpsteer")
RELATIVE = 1e-4
"""Most that a loss and its gradients may differ from the plain ones (fp32)."""
LEVELS = 1e-3
"""Most that scores may differ, in levels, by what else is in their batch (fp32)."""


class Given(NamedTuple):
    """The command line."""

    device: str
    tiny: bool
    gemma: Path | None
    folder: Path


def checks(given: Given) -> dict[str, Any]:
    """What is computed together is what is computed apart."""
    torch.backends.cuda.matmul.allow_tf32 = False
    size = SIZES["tiny" if given.tiny else "80m"]
    tokenizer = make_tokenizer(size.vocab_size, SCHEMA)
    found: dict[str, Any] = {}
    for kind in ("regression", "generative"):
        save_attribute_model(given.folder / kind, size, tokenizer, SCHEMA, kind)
        found[f"scores_{kind}"] = _scores_apart(given.folder / kind, tokenizer)
    found["loss"] = _loss(given, tokenizer)
    found["greedy_texts"] = _greedy(given, tokenizer)
    return {"checks": found}


def _scores_apart(model: Path, tokenizer: Any) -> dict[str, Any]:
    """Score conversations of mixed length that share prompts, in one call and one by one."""
    from steerlm.scorers.attribute_models import load_attribute_model

    scorer = load_attribute_model(model, "fp32")
    turns = [row.messages for row in conversations(tokenizer, SCHEMA, 3, 3)]
    together = scorer.score(turns)
    apart = [scorer.score([turn])[0] for turn in turns]
    largest = 0.0
    for one, other in zip(together, apart, strict=True):
        assert one is not None
        assert other is not None
        largest = max(largest, *(abs(one[a.name].mean - other[a.name].mean) for a in SCHEMA))
    shares = scorer.sharing is not None
    return {"ok": largest <= LEVELS, "largest_difference_in_levels": largest, "rows_share_prompts": shares}


def _loss(given: Given, tokenizer: Any) -> dict[str, Any]:
    """Compute loss and gradients in pieces (or fused), and from the logits of all positions."""
    from torch.nn import functional
    from transformers import LlamaForCausalLM
    from transformers.utils import is_liger_kernel_available

    from steerlm.training.response_loss import ResponseLoss

    torch.manual_seed(0)
    model = LlamaForCausalLM(make_config(SIZES["tiny" if given.tiny else "80m"], tokenizer)).to(given.device)
    ids = torch.randint(0, 1000, (2, 96), device=given.device)
    places = torch.arange(2 * 96, device=given.device).reshape(2, 96)[:, 32:-1].flatten()
    targets = ids[:, 33:].flatten()

    def gradients(loss: torch.Tensor) -> tuple[float, torch.Tensor]:
        model.zero_grad()
        loss.backward()
        weights = [weight.grad for weight in model.parameters() if weight.grad is not None]
        return float(loss.detach()), torch.cat([grad.flatten() for grad in weights])

    plain, expected = gradients(
        functional.cross_entropy(model(input_ids=ids).logits.flatten(0, 1)[places], targets, reduction="sum")
    )
    pieces, found = gradients(ResponseLoss(model)(model, places, targets, {"input_ids": ids, "use_cache": False}))
    error = float((found - expected).norm() / expected.norm())
    return {
        "ok": abs(pieces / plain - 1) <= RELATIVE and error <= RELATIVE,
        "relative_difference": abs(pieces / plain - 1),
        "relative_difference_of_gradients": error,
        "fused_by_liger": given.device == "cuda" and is_liger_kernel_available(),
    }


def _greedy(given: Given, tokenizer: Any) -> dict[str, Any]:
    """Let the built-in engine and `generate`, and vLLM where it is installed, answer without chance."""
    from transformers import LlamaForCausalLM

    from steerlm.checkpoint.info import CheckpointInfo
    from steerlm.checkpoint.models import save_model
    from steerlm.generation.engine import Request, Sampling, load_engine
    from steerlm.generation.opening import open_engine

    folder = given.folder / "steerable"
    torch.manual_seed(0)
    model = LlamaForCausalLM(make_config(SIZES["tiny" if given.tiny else "80m"], tokenizer))
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.mul_(2)  # likely and unlikely tokens differ as in a trained model
    save_model(folder, model, tokenizer, CheckpointInfo("sft", SCHEMA, "steerlm"), "Random weights.\n")
    requests = [
        Request(row.messages[:1], dict(row.messages[1].attributes or {}))
        for row in conversations(tokenizer, SCHEMA, 4, 1)
    ]
    engine = load_engine(folder, "fp32", 4)
    ours = [samples[0].text for samples in engine.generate(requests, Sampling(16, 0.0))]
    model = model.to(given.device).eval()
    stops = sorted(engine.prompting.stop_ids)
    theirs = []
    for request in requests:
        ids = torch.tensor([list(engine.prompting.single(request, "generate"))], device=given.device)
        output = model.generate(
            ids, attention_mask=torch.ones_like(ids), max_new_tokens=16, do_sample=False, eos_token_id=stops,
            pad_token_id=stops[0],
        )  # fmt: skip
        answer = output[0, ids.shape[1] :].tolist()
        theirs.append(engine.prompting.sample(answer, answer[-1] in stops).text)
    found = {"ok": ours == theirs, "answers": len(ours), "same_as_generate": sum(map(str.__eq__, ours, theirs))}
    if given.device == "cuda" and importlib.util.find_spec("vllm") is not None:
        del engine, model
        torch.cuda.empty_cache()
        served = open_engine("vllm", folder, "fp32", 4).generate(requests, Sampling(16, 0.0))
        found["same_as_vllm"] = sum(a == samples[0].text for a, samples in zip(ours, served, strict=True))
    return found


def memory(given: Given) -> dict[str, Any]:
    """What a training takes beside what `steerlm plan` says of it."""
    found = planning.measure("tiny" if given.tiny else "1b", False, 0, given.folder)
    return {**found, "errors": planning.summarise([found])}


def gemma(given: Given) -> dict[str, Any]:
    """All steps of a recipe, shortened: on a Gemma 3 270M with LoRA, or tiny on the playground's own base model."""
    from steerlm.config import load_recipe, parse_overrides
    from steerlm.pipeline import run_recipe

    if given.gemma is None and not given.tiny:
        raise NotRun("no Gemma here: --gemma FOLDER (shared/models/gemma-3-270m/get.py makes one)")
    prompts = 100 if given.tiny else 400
    changes = [
        f"run_dir={given.folder / 'run'}", f"playground.num_prompts={prompts}", "playground.pretrain_epochs=0.2",
        "train_attribute_model.epochs=1", "train_sft.epochs=1", "bootstrap.num_prompts=16", "bootstrap.mode=paper",
        "bootstrap.samples_per_prompt=4", "bootstrap.max_new_tokens=120", "evaluate.num_prompts=4",
        "evaluate.max_new_tokens=48", "evaluate.settings=[defaults]", "prepare.validation_fraction=0.1",
    ]  # fmt: skip
    if given.tiny:
        changes += ["playground.hidden_size=32", "playground.num_layers=1", "playground.num_heads=2"]
    if given.gemma is not None:
        for stage in ("train_attribute_model", "train_sft"):
            changes += [f"{stage}.base_model={given.gemma}", f"{stage}.lora.rank=16", f"{stage}.learning_rate=5.0e-4"]
            changes += [f"{stage}.tokens_per_batch={2048 if given.tiny else 16384}"]
    recipe = load_recipe(Path("playground"), parse_overrides(changes))
    stopped = ""
    try:
        run_recipe(recipe, force=True)
    except UserError as error:  # so little training may leave no sample to bootstrap from
        stopped = str(error)
    stages = {}
    for done in sorted(recipe.run_dir.glob("*/done.json")):
        record = json.loads(done.read_text(encoding="utf-8"))
        stages[record["stage"]] = {"seconds": record["seconds"], "resident_mib": record["peak_memory_mib"]}
        course = record["summary"]
        if "train" in course:
            stages[record["stage"]]["tokens"] = course["train"].get("tokens")
    found: dict[str, Any] = {"model": "gemma-3-270m" if given.gemma is not None else "playground", "stages": stages}
    if stopped:
        found["stopped"] = stopped
    if given.device == "cuda":
        found["device_memory_mib"] = round(torch.cuda.max_memory_allocated() / 2**20)
    return found


PARTS: dict[str, Callable[[Given], dict[str, Any]]] = {"checks": checks, "memory": memory, "gemma": gemma}


def main() -> int:
    """Run a part."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.gpu_parts")
    parser.add_argument("part", choices=list(PARTS))
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--tiny", action="store_true")
    parser.add_argument("--gemma", type=Path)
    parser.add_argument("--out", type=Path, required=True)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="steerlm-gpu-part-") as folder:
        try:
            answer = PARTS[args.part](Given(args.device, args.tiny, args.gemma, Path(folder)))
        except NotRun as reason:
            answer = {"not_run": str(reason)}
    args.out.write_text(json.dumps(answer), encoding="utf-8")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

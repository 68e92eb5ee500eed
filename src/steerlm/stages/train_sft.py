"""Step 3: attribute-conditioned supervised fine-tuning (SteerLM, section 3.3).

    steerlm train-sft RECIPE

A fresh base model learns p(response | prompt, attributes) from good and bad responses alike: the label tells them
apart. With `conditioning: false` the same command trains the plain SFT baseline.
"""

from __future__ import annotations

import dataclasses
import json
import logging
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from transformers import PreTrainedTokenizerBase, set_seed

from steerlm.attributes import AttributeSchema
from steerlm.checkpoint.adapters import add_lora, merge_adapter
from steerlm.checkpoint.model_card import model_card
from steerlm.checkpoint.models import (
    INFO_FILE,
    CheckpointInfo,
    Precision,
    autocast_bf16,
    context_length,
    load_causal_lm,
    load_info,
    resize_embeddings,
    save_model,
)
from steerlm.config import SourceConfig, TrainSftConfig
from steerlm.conversation import Conversation, read_conversations
from steerlm.errors import UserError
from steerlm.storage.claims import digest_of, digest_of_file
from steerlm.storage.files import write_json
from steerlm.storage.progress import progress
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.training.base_encoder import open_encoder
from steerlm.training.conditioning import ConditionedExamples, Conditioning, EncodingReport
from steerlm.training.distributed import ranks
from steerlm.training.header_gain import HeaderProbe, header_exchanges
from steerlm.training.loop import BEST, train

log = logging.getLogger(__name__)


def train_sft(
    config: TrainSftConfig,
    train_data: Path,
    validation: Path,
    schema: AttributeSchema,
    out: Path,
    seed: int,
    sources: Sequence[SourceConfig] = (),
) -> dict[str, Any]:
    """Fine-tune a base model on annotated conversations.

    Args:
        config: the recipe's section.
        train_data: JSONL of conversations whose assistant turns carry `attributes` (annotated, or human labels).
        validation: the same, held out; its loss picks the best weights.
        schema: the attributes; must be that of the data.
        out: receives `model/` (a Hugging Face folder), `metrics.jsonl`, `checkpoints/` and `summary.json`. Called
            again after an interruption, it goes on from the last complete checkpoint.
        seed: of everything random.
        sources: weight and epochs by source name, from the recipe's `prepare` section.

    Returns:
        What was trained on (records, tokens, what was left out), and the course: steps, losses, best checkpoint.

    Raises:
        UserError: a missing or malformed file, another schema, nothing to train on, no labels to condition on, a base
            model that cannot be loaded, a loss that is not finite.
    """
    owner = _owner(config, train_data, validation, schema, seed, sources)
    summary_path = out / "summary.json"
    if summary_path.is_file():
        finished: dict[str, Any] = json.loads(summary_path.read_text(encoding="utf-8"))
        if finished.pop("owner") == owner:
            return finished
    set_seed(seed)
    tokenizer, encoder, model, max_length = start_of(config, schema)
    learned, held_out = _examples(config, train_data, validation, encoder, max_length, seed, sources, out)
    info = CheckpointInfo(
        kind="sft",
        schema=schema,
        template=encoder.template,
        conditioning=config.conditioning,
        label_statistics=learned.label_statistics(),
        provenance={
            "base_model": config.base_model,
            "data": {"train": digest_of_file(train_data)[:16], "validation": digest_of_file(validation)[:16]},
            "labelled_by": sorted(learned.labelled_by),
            "seed": seed,
            "recipe": config.model_dump(mode="json"),
        },
    )
    exchanges = header_exchanges(held_out, schema.names, seed) if config.conditioning else []
    first = not (Path(config.base_model) / INFO_FILE).is_file()
    probe = HeaderProbe(exchanges, seed, info, first) if exchanges else None
    new_ids = encoder.new_ids if first else ()
    course = train(config, model, tokenizer, learned, held_out, "sft", out, seed, probe=probe, new_ids=new_ids)
    summary = {
        "max_length": max_length,
        "train": dataclasses.asdict(learned.report),
        "validation": dataclasses.asdict(held_out.report),
        **course,
    }
    if ranks().is_main_process:
        _save(config, model, tokenizer, info, summary, out)
        write_json(summary_path, {**summary, "owner": owner})
    ranks().wait_for_everyone()
    return summary


class SftStart(NamedTuple):
    """What a fine-tuning begins with; `max_length` is the most tokens of an example."""

    tokenizer: PreTrainedTokenizerBase
    encoder: ConversationEncoder
    model: Any
    max_length: int


def start_of(config: TrainSftConfig, schema: AttributeSchema) -> SftStart:
    """Load the base model of a section, with its template and adapters.

    Raises:
        UserError: a base model that cannot be loaded, or a checkpoint of another schema.
    """
    tokenizer, num_new, encoder = open_encoder(config, schema)
    model = _base_model(config, tokenizer, num_new, encoder, schema)
    return SftStart(tokenizer, encoder, model, min(config.max_length, context_length(model.config, tokenizer)))


def _base_model(
    config: TrainSftConfig,
    tokenizer: PreTrainedTokenizerBase,
    num_new: int,
    encoder: ConversationEncoder,
    schema: AttributeSchema,
) -> Any:
    """Load the base model with rows for the control tokens, and adapters where the recipe wants them."""
    if (Path(config.base_model) / INFO_FILE).is_file():
        mine = f"the checkpoint {config.base_model}"
        load_info(config.base_model).schema.require_same(schema.signature, mine, "the recipe")
    lora = config.lora
    if lora is None:
        model = load_causal_lm(config.base_model)
        resize_embeddings(model, tokenizer, num_new)
        return model
    # frozen weights need no fp32 copy where the device computes in bf16
    precision: Precision = "bf16" if autocast_bf16(config.precision) else "fp32"
    log.info("frozen weights in %s", precision)
    model = load_causal_lm(config.base_model, precision, lora.quantize_4bit)
    resize_embeddings(model, tokenizer, num_new)
    return add_lora(model, lora, encoder.new_ids, autocast=precision == "bf16")


def _examples(
    config: TrainSftConfig,
    train_data: Path,
    validation: Path,
    encoder: ConversationEncoder,
    max_length: int,
    seed: int,
    sources: Sequence[SourceConfig],
    out: Path,
) -> tuple[ConditionedExamples, ConditionedExamples]:
    """Encode the training data, and the validation data without dropout and decoys."""
    how = Conditioning(
        headers=config.conditioning,
        labels=config.labels,
        turns=config.turns,
        attribute_dropout=config.attribute_dropout,
        header_dropout=config.header_dropout,
        decoys=config.header_decoys,
        seed=seed,
    )
    whole = dataclasses.replace(how, attribute_dropout=0.0, header_dropout=0.0, decoys=0.0)
    learned = ConditionedExamples(_read(train_data, encoder), encoder, how, max_length, sources, out)
    _require_examples(learned.report, config, max_length, train_data, "give training data")
    held_out = ConditionedExamples(_read(validation, encoder), encoder, whole, max_length, folder=out)
    hold_out = "there is nothing to validate on: raise prepare.validation_fraction"
    _require_examples(held_out.report, config, max_length, validation, hold_out)
    return learned, held_out


def _read(path: Path, encoder: ConversationEncoder) -> Iterator[Conversation]:
    return progress(read_conversations(path, encoder.schema), None, f"encoding {path.name}")


def _require_examples(
    report: EncodingReport, config: TrainSftConfig, max_length: int, path: Path, missing: str
) -> None:
    """Raise when a file leaves nothing to train on or to condition on.

    Args:
        report: what became of the file's records.
        config: the recipe's section.
        max_length: most tokens of an example.
        path: the file.
        missing: what to do where it holds no record.

    Raises:
        UserError: saying what became of the records.
    """
    if report.records + report.too_long + report.no_response == 0:
        raise UserError(f"{path}: the file holds no record; {missing}")
    if report.records == 0:
        raise UserError(
            f"{path}: nothing to train on: {report.too_long} records are longer than {max_length} tokens even without "
            f"their earlier turns, {report.no_response} have no assistant turn; raise train_sft.max_length (within the "
            "model's context) or check the data"
        )
    if config.conditioning and report.unlabelled_turns == report.trained_turns:
        lacking = {
            "predicted": "attributes: run `steerlm annotate` on it",
            "human": "human labels: set train_sft.labels: predicted",
        }
        raise UserError(
            f"{path}: no assistant turn carries {lacking[config.labels]}, or set train_sft.conditioning: false for "
            "plain SFT"
        )


def _save(
    config: TrainSftConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    info: CheckpointInfo,
    summary: dict[str, Any],
    out: Path,
) -> None:
    """Write the model folder; see `save_tuned`."""
    learned = summary["train"]
    data = {
        "records": learned["records"],
        "tokens": learned["tokens"],
        "trained_tokens": learned["trained_tokens"],
        "responses": learned["trained_turns"],
        "responses_without_label": learned["unlabelled_turns"],
        "records_shortened": learned["shortened"],
        "records_too_long": learned["too_long"],
        "label_combinations": info.label_statistics["num_combinations"],
    }
    save_tuned(config, model, tokenizer, info, data, summary, out)


def save_tuned(
    config: TrainSftConfig,
    model: Any,
    tokenizer: PreTrainedTokenizerBase,
    info: CheckpointInfo,
    data: Mapping[str, object],
    course: Mapping[str, Any],
    out: Path,
) -> None:
    """Write `out/model`, the weights with the lowest validation loss; adapters are merged into it and kept beside it.

    Args:
        config: the section that it was trained with.
        model: what `train` left.
        info: what the checkpoint says of itself.
        data: of the model card: what it was trained on.
        course: what `train` returned.
    """
    best = out / BEST if config.sharded else out / "checkpoints" / f"checkpoint-{course['best_step']}"
    if config.lora is not None:
        # 4-bit weights would lose the adapter, and no rank holds sharded ones: read both again
        again = (best, config.base_model) if config.sharded or config.lora.quantize_4bit else None
        model = merge_adapter(model, out / "adapter", tokenizer, again)
    elif config.sharded:
        model = load_causal_lm(best)
    results = {
        key: course[key] for key in ("steps", "epochs", "train_loss", "validation_loss", "best_step", "early_stopped")
    }
    save_model(out / "model", model, tokenizer, info, model_card(info, data, results))


def _owner(
    config: TrainSftConfig,
    train_data: Path,
    validation: Path,
    schema: AttributeSchema,
    seed: int,
    sources: Sequence[SourceConfig],
) -> str:
    """Return a digest of everything the result depends on."""
    what = [
        config.model_dump(mode="json"),
        digest_of_file(train_data),
        digest_of_file(validation),
        schema.to_dict(),
        seed,
        [source.model_dump(mode="json") for source in sources],
    ]
    return digest_of(*what)[:16]

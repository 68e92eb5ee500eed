"""Make a model ready for others (`steerlm export`).

    steerlm export runs/playground --out steerable
    steerlm export runs/playground --attribute-model --out scorer

What comes out is one ordinary Hugging Face folder per model: weights in one piece, the tokenizer with its template,
`steerlm.json`, a card with results and a figure. It appears whole or not at all.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple

import yaml
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from steerlm.checkpoint.card_usage import attribute_outputs
from steerlm.checkpoint.info import CheckpointInfo, save_info
from steerlm.checkpoint.model_card import Publication, model_card
from steerlm.checkpoint.models import context_length, load_encoder, load_tokenizer, quiet
from steerlm.checkpoint.served import served_architectures
from steerlm.checkpoint.weights import fingerprint, whole_folder
from steerlm.errors import UserError
from steerlm.exporting.gguf import Tools, check_quants, find_tools, write_gguf, write_modelfiles
from steerlm.exporting.locating import Found, base_model, find, is_hub_id
from steerlm.exporting.results import accuracy_rows, curves_png, steering_rows
from steerlm.exporting.weights import Dtype, load_merged
from steerlm.scorers.heads import FROZEN, HEAD_FILE
from steerlm.storage.files import read_json, write_json
from steerlm.template.conversation_encoder import ConversationEncoder
from steerlm.template.guarding import guarded
from steerlm.template.installing import installed_template

RECORD = "export.json"
"""Says which files of a folder an export wrote, so that the next one replaces those and nothing else."""
_FIGURE = "steering.png"


class Exported(NamedTuple):
    """What an export made."""

    found: Found
    dtype: Dtype
    size: int
    files: tuple[str, ...]


def export(
    model: Path,
    out: Path,
    *,
    attribute_model: bool = False,
    dtype: Dtype | None = None,
    name: str | None = None,
    results: Path | None = None,
    gguf: Sequence[str] | None = None,
    llama_cpp: Path | None = None,
    max_shard_size: str = "5GB",
) -> Exported:
    """Export a checkpoint, an adapter or a finished run.

    Args:
        model: see `locating.find`.
        out: folder to write; an earlier export in it is replaced.
        attribute_model: the run's attribute model in place of its steerable model.
        dtype: of the weights; None = bfloat16, for an attribute model float32 (its outputs are numbers).
        name: of the model in its card; None = the name of `out`.
        results: `results.json` of the model's evaluation; None = the run's.
        llama_cpp: llama.cpp's folder, for `gguf`.
        max_shard_size: weights beyond this go into several files.
    """
    found = find(model, attribute_model, results)
    check_out(out, found)
    name = name or out.resolve().name
    is_scorer = found.info.kind != "sft"
    if gguf is not None and is_scorer:
        raise UserError("--gguf is for steerable models: llama.cpp cannot score with an attribute model")
    quants = check_quants(gguf) if gguf is not None else ()
    tools = find_tools(quants, llama_cpp) if quants else None
    dtype = dtype or ("float32" if is_scorer else "bfloat16")
    tokenizer = load_tokenizer(found.described)
    ConversationEncoder(tokenizer, found.info.schema)  # says what is wrong with a tokenizer that is not ours
    loaded = load_merged(found, tokenizer, dtype)
    _prepare(loaded, tokenizer, found.info)
    context = context_length(loaded.config, tokenizer)
    with whole_folder(out) as partial:
        with quiet():
            loaded.save_pretrained(partial, max_shard_size=max_shard_size)
            _name_as_served(partial / "config.json")
            tokenizer.chat_template = guarded(tokenizer, scores=is_scorer)
            tokenizer.save_pretrained(partial)
        if (found.weights / HEAD_FILE).is_file():
            shutil.copyfile(found.weights / HEAD_FILE, partial / HEAD_FILE)
        if (found.weights / FROZEN).is_dir():
            with quiet():
                load_encoder(found.weights / FROZEN).to(loaded.dtype).save_pretrained(partial / FROZEN)
        _tidy(partial / "tokenizer_config.json")
        info = dataclasses.replace(found.info, provenance=_public(found.info.provenance))
        save_info(partial, info)
        publication = _publication(found, name, dtype, partial)
        if tools is not None:
            publication = _with_gguf(publication, partial, tools, quants, tokenizer, info, context)
        card = model_card(info, _data(info), {}, publication)
        (partial / "README.md").write_text(card, encoding="utf-8")
        written = _record(partial, found, dtype)
        size = sum((partial / file).stat().st_size for file in written)
    return Exported(found, dtype, size, written)


def _with_gguf(
    publication: Publication,
    folder: Path,
    tools: Tools,
    quants: Sequence[str],
    tokenizer: PreTrainedTokenizerBase,
    info: CheckpointInfo,
    context: int,
) -> Publication:
    """Write the GGUF files and Modelfiles of an exported folder and name them in what its card shows."""
    beginning = tokenizer.init_kwargs["steerlm"]["beginning"] and installed_template(tokenizer).beginning
    files = write_gguf(folder, tools, quants, publication.name.rsplit("/", 1)[-1], tokenizer, beginning)
    modelfiles = write_modelfiles(folder / "gguf", files[0], tokenizer, info.schema, context)
    return dataclasses.replace(publication, gguf=files, modelfiles=modelfiles)


def _record(folder: Path, found: Found, dtype: Dtype) -> tuple[str, ...]:
    """Write down what the folder holds; returns the files' names."""
    written = sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())
    files = (*written, RECORD)
    source = fingerprint(found.described)
    row = {"format": 1, "steerlm": version("steerlm"), "source": source, "dtype": dtype, "files": files}
    write_json(folder / RECORD, row)
    return files


def check_out(out: Path, found: Found) -> None:
    """Refuse to write over anything but an earlier export."""
    if out.exists() and not out.is_dir():
        raise UserError(f"--out {out} is a file; give a folder")
    place = out.resolve()
    for source in {found.weights.resolve(), found.described.resolve()}:
        if place == source or place in source.parents:
            raise UserError(f"--out {out} holds the model that is exported; give another folder")
    if not out.is_dir():
        return
    present = {p.relative_to(out).as_posix() for p in out.rglob("*") if not p.is_dir()}
    record = read_json(out / RECORD) if (out / RECORD).is_file() else {}
    mine = set(record.get("files", ())) if isinstance(record, dict) else set()
    if foreign := sorted(present - mine):
        raise UserError(
            f"--out {out} holds files that no export wrote ({', '.join(foreign[:3])}{', …' if foreign[3:] else ''}); "
            "give another folder, or move them away"
        )


def _prepare(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, info: CheckpointInfo) -> None:
    """Set what other programs read from the configuration."""
    model.config.use_cache = True
    if info.kind != "sft":
        model.config.problem_type = "regression"
        model.config.attribute_outputs = attribute_outputs(info)
        return
    config = model.generation_config
    assert config is not None
    stops = ConversationEncoder(tokenizer, info.schema).stop_ids
    # a model that writes another of its marks or levels ends its answer with that, as it does with us
    marks = tokenizer.convert_tokens_to_ids(list(installed_template(tokenizer).tokens))
    config.eos_token_id, config.pad_token_id = list(dict.fromkeys([*stops, *marks])), tokenizer.pad_token_id
    config.do_sample, config.temperature, config.top_k = True, 0.7, 50


def _name_as_served(path: Path) -> None:
    """Name a classifier as servers do."""
    config = read_json(path)
    named = served_architectures(config["architectures"])
    if named != config["architectures"]:
        _write_config(path, {**config, "architectures": named})


def _tidy(path: Path) -> None:
    """Leave out what only concerned loading the tokenizer here."""
    config = read_json(path)
    for key in ("is_local", "local_files_only", "name_or_path"):
        config.pop(key, None)
    _write_config(path, config)


def _write_config(path: Path, config: Mapping[str, object]) -> None:
    path.write_text(json.dumps(config, indent=2, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")


def _public(provenance: Mapping[str, Any]) -> dict[str, object]:
    """Return a provenance without the folders of this machine: of an absolute path the last part is kept."""

    def cleaned(value: Any) -> Any:
        if isinstance(value, Mapping):
            return {key: cleaned(v) for key, v in value.items()}
        if isinstance(value, list):
            return [cleaned(v) for v in value]
        return Path(value).name if isinstance(value, str) and value.startswith(("/", "~")) else value

    return {key: cleaned(value) for key, value in provenance.items()}


def _publication(found: Found, name: str, dtype: str, folder: Path) -> Publication:
    base = base_model(found.info)
    publication = Publication(
        name=name,
        dtype=dtype,
        base_model=base if is_hub_id(base) else None,
        license=_license(base),
        datasets=_datasets(found.recipe),
    )
    if found.info.kind != "sft":
        if found.report is None:
            return publication
        table = accuracy_rows(found.report)
    elif found.results is None:
        table = None
    else:
        table = steering_rows(*found.results)
        if (figure := curves_png(*found.results)) is not None:
            (folder / _FIGURE).write_bytes(figure[0])
            publication = dataclasses.replace(publication, figure=(_FIGURE, figure[1]))
    if table is not None:
        publication = dataclasses.replace(publication, **table._asdict())
    if found.info.kind == "sft" and found.report is not None:
        labels = accuracy_rows(found.report)
        publication = dataclasses.replace(publication, label_columns=labels.columns, labels=labels.rows)
    return publication


def _license(base: str) -> str | None:
    """Return the license that the card of a base model here names; None where it is not known."""
    card = Path(base) / "README.md"
    text = card.read_text(encoding="utf-8") if card.is_file() else ""
    if not text.startswith("---\n") or "\n---" not in text[4:]:
        return None
    try:
        head = yaml.safe_load(text[4:].split("\n---", 1)[0])
    except yaml.YAMLError:
        return None
    found = head.get("license") if isinstance(head, dict) else None
    return found if isinstance(found, str) else None


def _datasets(recipe: Mapping[str, Any]) -> tuple[str, ...]:
    sources = recipe.get("prepare", {}).get("sources", ())
    return tuple(dict.fromkeys(source["hub"] for source in sources if source.get("hub")))


def _data(info: CheckpointInfo) -> dict[str, object]:
    statistics = info.label_statistics
    names = {"turns": "responses", "unlabelled_turns": "responses without label", "num_combinations": "combinations"}
    data = {text: statistics[key] for key, text in names.items() if key in statistics}
    fingerprints = info.provenance.get("data", {})
    return data | {f"SHA-256 of the {name} file, first 16 digits": value for name, value in fingerprints.items()}

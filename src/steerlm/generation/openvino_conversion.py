"""From a checkpoint to the form that OpenVINO runs, kept in a folder beside the checkpoint.

The conversion is the exporter of transformers; what it makes is compared with the model it was made of, once, so that
a kind of model that it does not convert rightly is refused rather than sampled from.
"""

from __future__ import annotations

import contextlib
import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Literal

import torch
from transformers import PreTrainedModel

from steerlm.checkpoint.models import load_causal_lm, quiet
from steerlm.checkpoint.weights import fingerprint, whole_folder
from steerlm.errors import UserError
from steerlm.storage.files import read_json, write_json
from steerlm.storage.locks import held_in_turn

_KEY_FILE = "steerlm_conversion.json"
_PROMPT_TOKENS = 40
_CHECKED_TOKENS = 8
_TOLERANCE = {"fp32": 0.01, "bf16": 0.25}
"""By how many standard deviations of the logits a greedy token may miss the best one."""


@contextlib.contextmanager
def converted(path: Path, precision: Literal["bf16", "fp32"]) -> Iterator[Path]:
    """Give the converted checkpoint; kept as `<checkpoint>-openvino-<precision>` where its parent can be written to.

    Raises:
        UserError: the model is of a kind that OpenVINO does not run.
    """
    import openvino

    key = {"checkpoint": fingerprint(path), "openvino": openvino.__version__}
    path = path.resolve()
    kept = path.with_name(f"{path.name}-openvino-{precision}")
    if _is_of(kept, key):
        yield kept
    elif os.access(path.parent, os.W_OK):
        with held_in_turn(kept.with_name(f".{kept.name}.lock")):
            if not _is_of(kept, key):  # else another process has made it meanwhile
                with whole_folder(kept) as partial:
                    _convert(path, precision, partial)
                    write_json(partial / _KEY_FILE, key)
        yield kept
    else:
        folder = Path(tempfile.mkdtemp(prefix="steerlm-openvino-"))
        try:
            _convert(path, precision, folder)
            yield folder
        finally:
            shutil.rmtree(folder)


def _is_of(folder: Path, key: Mapping[str, str]) -> bool:
    return (folder / _KEY_FILE).is_file() and read_json(folder / _KEY_FILE) == key


def _convert(path: Path, precision: Literal["bf16", "fp32"], folder: Path) -> None:
    try:
        from transformers.exporters.configs import OpenVINOConfig
        from transformers.exporters.exporter_openvino import OpenVINOExporter
    except ImportError:
        raise UserError(
            "the engine openvino needs a transformers with an OpenVINO exporter: pip install 'steerlm[openvino]'"
        ) from None
    model = load_causal_lm(path, precision).eval()
    kinds = getattr(model.config.get_text_config(), "layer_types", None) or ["full_attention"]
    if model._is_stateful or not {"full_attention", "sliding_attention"}.issuperset(kinds):
        raise UserError(
            f"{path} has layers other than attention, which the engine openvino is not tested with; "
            "use the engine local"
        )
    _widen_windows(model)
    with _silence(), torch.inference_mode(False), torch.no_grad():
        exported = OpenVINOExporter().export(model, _example(model), config=OpenVINOConfig(dynamic=True))
        exported.save_pretrained(str(folder))
    _check(model, folder, precision)


def _widen_windows(model: PreTrainedModel) -> None:
    """Let layers with a sliding window see everything, and the model's context end where the window does.

    Up to there both are the same, and OpenVINO knows no such layers.
    """
    config = model.config.get_text_config()
    window = getattr(config, "sliding_window", None)
    used = "sliding_attention" in (getattr(config, "layer_types", None) or ["sliding_attention"])
    if not (used and window) or window >= config.max_position_embeddings:
        return
    windows = [one for one in (config, *model.modules()) if getattr(one, "sliding_window", None)]
    for one in windows:
        one.sliding_window = config.max_position_embeddings
    config.max_position_embeddings = window


@contextlib.contextmanager
def _silence() -> Iterator[None]:
    """Keep the exporter's advice to developers from users: some of its loggers are outside of those of transformers."""
    with quiet(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        logging.disable(logging.WARNING)
        try:
            yield
        finally:
            logging.disable(logging.NOTSET)


def _example(model: PreTrainedModel) -> dict[str, object]:
    """Return inputs of a step that continues two sequences, for the tracing."""
    ids = torch.arange(2 * 13).reshape(2, 13) % model.config.get_text_config().vocab_size
    return {
        "input_ids": ids[:, 8:],
        "attention_mask": torch.ones_like(ids),
        "position_ids": torch.arange(8, 13)[None].repeat(2, 1),
        "past_key_values": model(ids[:, :8], use_cache=True).past_key_values,
    }


def _check(model: PreTrainedModel, folder: Path, precision: Literal["bf16", "fp32"]) -> None:
    """Raise unless the tokens that the converted model takes greedily are the model's own best ones, or nearly."""
    import numpy as np
    import openvino
    import openvino_genai

    vocabulary = model.config.get_text_config().vocab_size
    prompt = (torch.arange(_PROMPT_TOKENS) * 7919 + 11) % vocabulary
    kind = {"bf16": "bf16", "fp32": "f32"}[precision]
    properties = {"INFERENCE_PRECISION_HINT": kind, "KV_CACHE_PRECISION": kind}
    pipeline = openvino_genai.ContinuousBatchingPipeline(
        str(folder), openvino_genai.SchedulerConfig(), "CPU", properties
    )
    settings = openvino_genai.GenerationConfig()
    settings.max_new_tokens = _CHECKED_TOKENS
    settings.ignore_eos = True
    settings.set_eos_token_id(0)
    [result] = pipeline.generate([openvino.Tensor(prompt[None].numpy().astype(np.int64))], [settings])
    taken = torch.tensor(result.m_generation_ids[0])
    with torch.inference_mode():
        logits = model(torch.cat([prompt, taken])[None]).logits[0, _PROMPT_TOKENS - 1 : -1].float()
    missed = (logits.amax(-1) - logits.gather(-1, taken[:, None])[:, 0]) / logits.std(-1)
    if not bool((missed <= _TOLERANCE[precision]).all()):
        raise UserError(
            f"{model.name_or_path!r} answers otherwise once converted for OpenVINO ({model.config.model_type}); "
            "use the engine local"
        )

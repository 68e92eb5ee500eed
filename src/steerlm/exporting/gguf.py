"""GGUF files for llama.cpp and Ollama, made by llama.cpp's own converter, and a Modelfile per setting for Ollama.

The converter is a script that comes with llama.cpp's sources and in no package; it is run as it is there.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from transformers import PreTrainedTokenizerBase

from steerlm.attributes import AttributeSchema, Value
from steerlm.errors import UserError, did_you_mean
from steerlm.exporting.chat_templates import for_llama_cpp, ollama_template
from steerlm.server.policy import shipped_presets
from steerlm.storage.files import read_json, write_json
from steerlm.template.conversation_encoder import ConversationEncoder

CONVERTER = "convert_hf_to_gguf.py"
_QUANTIZER = "llama-quantize"
_DIRECT = ("F32", "F16", "BF16", "Q8_0")
_QUANTIZED = (
    "Q2_K", "Q3_K_S", "Q3_K_M", "Q3_K_L", "Q4_0", "Q4_1", "Q4_K_S", "Q4_K_M", "Q5_0", "Q5_1", "Q5_K_S", "Q5_K_M",
    "Q6_K", "IQ3_XS", "IQ3_M", "IQ4_XS", "IQ4_NL",
)  # fmt: skip
_WHERE = "git clone https://github.com/ggml-org/llama.cpp"


@dataclass(frozen=True)
class Tools:
    """llama.cpp's tools.

    Attributes:
        quantizer: the program that makes files smaller; None where none of the files needs it.
    """

    converter: Path
    quantizer: Path | None


def check_quants(names: Sequence[str]) -> tuple[str, ...]:
    """Return the names of GGUF types in capitals, each once."""
    for name in names:
        if name.upper() not in (*_DIRECT, *_QUANTIZED):
            raise UserError(f"--gguf {name}: no such type; {did_you_mean(name.upper(), (*_DIRECT, *_QUANTIZED))}")
    return tuple(dict.fromkeys(name.upper() for name in names))


def find_tools(quants: Sequence[str], folder: Path | None) -> Tools:
    """Find llama.cpp's tools in `--llama-cpp`, in the folder that LLAMA_CPP_DIR names, or on the PATH."""
    given = folder or (Path(os.environ["LLAMA_CPP_DIR"]) if os.environ.get("LLAMA_CPP_DIR") else None)
    searched = f"neither in {given} nor on the PATH" if given else "not on the PATH"
    converter = _find(CONVERTER, given, (".",))
    if converter is None:
        raise UserError(
            f"--gguf needs llama.cpp's {CONVERTER}, which is {searched}; get it with `{_WHERE}` and give "
            "--llama-cpp llama.cpp (or set LLAMA_CPP_DIR)"
        )
    smaller = [name for name in quants if name not in _DIRECT]
    quantizer = _find(_QUANTIZER, given, ("build/bin", "bin", ".")) if smaller else None
    if smaller and quantizer is None:
        raise UserError(
            f"--gguf {smaller[0]} needs llama.cpp's {_QUANTIZER}, which is {searched}; build it in llama.cpp with "
            f"`cmake -B build && cmake --build build --target {_QUANTIZER}`, or ask for {', '.join(_DIRECT)} only"
        )
    return Tools(converter, quantizer)


def _find(name: str, folder: Path | None, places: Sequence[str]) -> Path | None:
    if folder is not None:
        for place in places:
            if (folder / place / name).is_file():
                return (folder / place / name).resolve()
    found = shutil.which(name)
    if found is not None:
        return Path(found)
    # a script on the PATH need not be executable
    folders = [Path(part) for part in os.environ.get("PATH", "").split(os.pathsep) if part]
    return next((path / name for path in folders if name == CONVERTER and (path / name).is_file()), None)


def write_gguf(
    exported: Path, tools: Tools, quants: Sequence[str], name: str, tokenizer: PreTrainedTokenizerBase, beginning: bool
) -> tuple[str, ...]:
    """Convert an exported folder; the files are written into its folder `gguf`.

    Args:
        quants: types to write, from `check_quants`.
        beginning: whether a prompt starts with the beginning-of-sequence token.
    """
    target = exported / "gguf"
    target.mkdir()
    with tempfile.TemporaryDirectory(dir=exported, prefix=".converting-") as scratch:
        folder = _prepared(exported, Path(scratch) / name, tokenizer, beginning)
        source: Path | None = None
        for quant in sorted(quants, key=lambda quant: quant not in _DIRECT):
            file = target / f"{name}-{quant}.gguf"
            if quant in _DIRECT:
                _convert(tools, folder, file, quant)
                source = source if quant == "Q8_0" else file
                continue
            if source is None:
                source = Path(scratch) / "source.gguf"
                _convert(tools, folder, source, "F32" if _stored(exported) == "float32" else "BF16")
            _run([str(tools.quantizer), str(source), str(file), quant], f"{_QUANTIZER} {quant}")
    return tuple(f"{name}-{quant}.gguf" for quant in quants)


def _stored(exported: Path) -> str:
    return str(read_json(exported / "config.json").get("dtype"))


def _prepared(exported: Path, folder: Path, tokenizer: PreTrainedTokenizerBase, beginning: bool) -> Path:
    """Return a folder of links with a template that llama.cpp can read; the template's first token is the tokenizer's
    business there."""
    folder.mkdir()
    for file in exported.iterdir():
        if file.is_file() and file.name not in ("chat_template.jinja", "tokenizer_config.json", "README.md"):
            (folder / file.name).symlink_to(file.resolve())
    (folder / "chat_template.jinja").write_text(for_llama_cpp(tokenizer), encoding="utf-8")
    config = read_json(exported / "tokenizer_config.json")
    write_json(folder / "tokenizer_config.json", {**config, "add_bos_token": beginning})
    return folder


def _convert(tools: Tools, folder: Path, file: Path, quant: str) -> None:
    command = [sys.executable, str(tools.converter), str(folder), "--outfile", str(file), "--outtype", quant.lower()]
    _run(command, CONVERTER)


def _run(command: Sequence[str], what: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if done.returncode != 0:
        lines = [line.strip() for line in (done.stderr + done.stdout).splitlines() if line.strip()]
        said = next((line for line in reversed(lines) if "Error" in line), lines[-1] if lines else "no message")
        hint = ""
        if "pre-tokenizer" in done.stderr or "get_vocab_base_pre" in done.stderr:
            hint = "; llama.cpp knows the tokenizers of published base models only, and this is none of them"
        elif "ModuleNotFoundError" in said or "ImportError" in said:
            hint = f"; install what llama.cpp's requirements/requirements-{Path(command[1]).stem}.txt names"
        raise UserError(f"--gguf: {what} failed ({done.returncode}): {said[:500]}{hint}")


def write_modelfiles(
    folder: Path, gguf: str, tokenizer: PreTrainedTokenizerBase, schema: AttributeSchema, context: int
) -> tuple[str, ...]:
    """Write `Modelfile` (the defaults) and `Modelfile.PRESET` for every shipped preset that the schema allows."""
    presets = shipped_presets(schema)
    settings: dict[str, tuple[str, Mapping[str, object]]] = {
        "Modelfile": ("All dials at their defaults.", schema.defaults)
    }
    for preset, what in presets.items():
        settings[f"Modelfile.{preset}"] = (what.description, {**schema.defaults, **what.attributes})
    for file, (description, setting) in settings.items():
        values = schema.validate(setting)
        (folder / file).write_text(_modelfile(gguf, tokenizer, schema, values, context, description), encoding="utf-8")
    return tuple(settings)


def _modelfile(
    gguf: str,
    tokenizer: PreTrainedTokenizerBase,
    schema: AttributeSchema,
    setting: Mapping[str, Value],
    context: int,
    description: str,
) -> str:
    encoder = ConversationEncoder(tokenizer, schema)
    dials = "\n".join(
        f"#   {a.name} {a.levels[0]}..{a.levels[-1]}: {a.description}"
        if a.kind == "ordinal"
        else f"#   {a.name} {' | '.join(a.categories)}: {a.description}"
        for a in schema
    )
    stops = "\n".join(f"PARAMETER stop {json.dumps(token)}" for token in map(encoder.token, encoder.stop_ids))
    return (
        f"# {_one_line(description)}\n"
        "# Ollama's templates take no arguments: for another setting change the values at the end of TEMPLATE and\n"
        f"# create a model under another name. The dials:\n{dials}\n"
        f'FROM ./{gguf}\n\nTEMPLATE """{ollama_template(tokenizer, schema, setting)}"""\n\n{stops}\n'
        f"PARAMETER num_ctx {context}\nPARAMETER temperature 0.7\nPARAMETER top_k 50\nPARAMETER top_p 1\n"
        "# Ollama's own default would punish repeated words\nPARAMETER repeat_penalty 1\n"
    )


def _one_line(text: str) -> str:
    return re.sub(r"\s+", " ", text).strip()

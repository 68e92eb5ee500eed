"""Make a model ready for the hub, vLLM, llama.cpp and Ollama."""

from __future__ import annotations

import argparse
from pathlib import Path

from steerlm.commands import common, terminal
from steerlm.errors import UserError, shell_word

_EPILOG = """\
examples:
  steerlm export runs/playground --out steerable                       the final model with its results
  steerlm export runs/x/train_sft/adapter --out steerable              a LoRA or QLoRA adapter, merged into its base
  steerlm export runs/x --attribute-model --out scorer                 the attribute model; its card says how to use it
  steerlm export runs/x --out steerable --gguf Q4_K_M --llama-cpp ~/llama.cpp
  hf upload your-org/your-model steerable                              then everybody can

--out gets the weights (safetensors), the tokenizer with the template that knows the dials, steerlm.json (the schema),
generation_config.json, README.md (the card: dials, how to ask, results, terms) and steering.png. An earlier export
in it is replaced, anything else is left alone and is an error.
"""


def add(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Make a model ready for others: one Hugging Face folder for the hub, vLLM, llama.cpp and Ollama."
    )
    parser.epilog = _EPILOG
    parser.add_argument("model", type=Path, help="steerable checkpoint, adapter, attribute model or run folder")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to")
    parser.add_argument(
        "--attribute-model", action="store_true", help="of a run folder, export the attribute model instead"
    )
    parser.add_argument(
        "--dtype", choices=("bfloat16", "float16", "float32"),
        help="of the weights (default: bfloat16; of an attribute model float32)",
    )  # fmt: skip
    parser.add_argument("--name", help="of the model in its card, as in your-org/your-model (default: from --out)")
    parser.add_argument(
        "--results", type=Path, help="results.json of `steerlm evaluate` on this model (default: the run's)"
    )
    parser.add_argument(
        "--gguf", nargs="*", metavar="QUANT",
        help="write GGUF files of these types (default: F16) and Modelfiles for Ollama; needs llama.cpp",
    )  # fmt: skip
    parser.add_argument(
        "--llama-cpp", type=Path, metavar="FOLDER", help="llama.cpp's sources (default: LLAMA_CPP_DIR, then the PATH)"
    )


def run(arguments: argparse.Namespace) -> int:
    """Export, and say what can be done with it."""
    if not arguments.model.is_dir():
        raise UserError(f"no such folder: {arguments.model}; give a checkpoint, an adapter or a run folder")
    for option, path in (("--results", arguments.results), ("--llama-cpp", arguments.llama_cpp)):
        if path is not None and not path.exists():
            raise UserError(f"{option}: no such file or folder: {path}")
    from steerlm.exporting.export import export
    from steerlm.exporting.locating import offers_attribute_model

    with common.held_beside(arguments.out):
        done = export(
            arguments.model,
            arguments.out,
            attribute_model=arguments.attribute_model,
            dtype=arguments.dtype,
            name=arguments.name,
            results=arguments.results,
            gguf=arguments.gguf if arguments.gguf != [] else ["F16"],
            llama_cpp=arguments.llama_cpp,
        )
    out, found = arguments.out, done.found
    rows = [("exported", f"{out}  ({done.dtype}, {done.size / 1e6:.1f} MB in {len(done.files)} files)")]
    rows.append(("card", str(out / "README.md")))
    if "readout" in found.info.label_statistics:
        rows.append(("use", f"the code in {out / 'README.md'}; no server knows its head (readout: last trains one)"))
    elif found.info.kind != "sft":
        rows.append(("serve", f"vllm serve {shell_word(out)} --runner pooling --dtype {done.dtype}"))
    else:
        if found.results is None:
            rows.append(("note", "no evaluation of this model was found, so the card has no results; give --results"))
        rows.append(("serve", f"steerlm serve {shell_word(out)}, or vllm serve {shell_word(out)}"))
        if (out / "gguf").is_dir():
            rows.append(("ollama", f"ollama create NAME -f {shell_word(out / 'gguf' / 'Modelfile')}"))
        scorer = shell_word(f"{out}-attribute-model")
        if found.run is not None and offers_attribute_model(found.run):
            rows.append(("next", f"steerlm export {shell_word(found.run)} --attribute-model --out {scorer}"))
    rows.append(("publish", f"hf upload {arguments.name or 'ORG/NAME'} {shell_word(out)}"))
    for key, text in rows:
        terminal.say(f"{key:<9}{text}")
    return 0

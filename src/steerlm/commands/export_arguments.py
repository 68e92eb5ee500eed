"""The arguments of `steerlm export`: standard library only, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from pathlib import Path

_EPILOG = """\
examples:
  steerlm export runs/playground --out steerable                       the final model with its results
  steerlm export runs/x/train_sft/adapter --out steerable              a LoRA or QLoRA adapter, merged into its base
  steerlm export runs/x --attribute-model --out scorer                 for `vllm serve scorer --runner pooling`
  steerlm export runs/x --out steerable --gguf Q4_K_M --llama-cpp ~/llama.cpp
  hf upload your-org/your-model steerable                              then everybody can

--out gets the weights (safetensors), the tokenizer with the template that knows the dials, steerlm.json (the schema),
generation_config.json, README.md (the card: dials, how to ask, results, terms) and steering.png. An earlier export
in it is replaced, anything else is left alone and is an error.
"""


def add_export(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of `steerlm export` to its parser."""
    parser.description = (
        "Make a model ready for others: one Hugging Face folder for the hub, vLLM, llama.cpp and Ollama."
    )
    parser.epilog = _EPILOG
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
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

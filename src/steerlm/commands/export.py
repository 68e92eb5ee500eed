"""What `steerlm export` does once its arguments are parsed."""

from __future__ import annotations

import argparse

from rich.console import Console

from steerlm.exporting.export import Exported, export


def run_export(arguments: argparse.Namespace, console: Console) -> int:
    """`steerlm export MODEL --out FOLDER`."""
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
    _report(done, arguments, console)
    return 0


def _report(done: Exported, arguments: argparse.Namespace, console: Console) -> None:
    out, found = arguments.out, done.found
    rows = [("exported", f"{out}  ({done.dtype}, {done.size / 1e6:.1f} MB in {len(done.files)} files)")]
    rows.append(("card", str(out / "README.md")))
    if found.info.kind != "sft":
        rows.append(("serve", f"vllm serve {out} --runner pooling"))
    else:
        if found.results is None:
            rows.append(("note", "no evaluation of this model was found, so the card has no results; give --results"))
        rows.append(("serve", f"steerlm serve {out}, or vllm serve {out}"))
        if (out / "gguf").is_dir():
            rows.append(("ollama", f"ollama create NAME -f {out / 'gguf' / 'Modelfile'}"))
        if found.run is not None and not arguments.attribute_model:
            rows.append(("next", f"steerlm export {found.run} --attribute-model --out {out}-attribute-model"))
    rows.append(("publish", f"hf upload ORG/NAME {out}"))
    for key, text in rows:
        console.print(f"{key:<9}{text}", markup=False, highlight=False, soft_wrap=True)

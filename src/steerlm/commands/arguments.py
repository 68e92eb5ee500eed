"""The arguments of every command: standard library only, so that `--help` answers at once."""

from __future__ import annotations

import argparse
from importlib.metadata import version
from pathlib import Path
from typing import Any

from steerlm.commands.export_arguments import add_export
from steerlm.commands.plan_arguments import add_plan
from steerlm.commands.rate_arguments import add_rate
from steerlm.commands.serve_arguments import add_serve

_EPILOG = """\
examples:
  steerlm run playground                               all four steps on the CPU, in minutes
  steerlm run recipe.yaml --dry-run                    validate everything, estimate cost, compute nothing
  steerlm run recipe.yaml --set train_sft.epochs=2     override one value of the recipe
  steerlm annotate --model runs/x/train_attribute_model/model --data chats.jsonl --out labelled
  steerlm chat runs/playground/bootstrap/model --humor 4
"""

_STAGE_HELP = {
    "playground": "generate the embedded world and pretrain its base model",
    "prepare": "import, deduplicate, split and leak-check the data",
    "train-attribute-model": "step 1: train the attribute prediction model",
    "annotate": "step 2: label every assistant turn with the attribute model",
    "train-sft": "step 3: attribute-conditioned supervised fine-tuning",
    "bootstrap": "step 4: sample at maximum quality, score, fine-tune again",
    "evaluate": "sweep every dial on held-out prompts and measure what comes out",
}


def build_parser() -> argparse.ArgumentParser:
    """Return the argument parser with all subcommands."""
    parser = argparse.ArgumentParser(
        prog="steerlm",
        description="Attribute-conditioned fine-tuning (SteerLM): language models with dials.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"steerlm {version('steerlm')}")
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    run = commands.add_parser("run", help="run every step of a recipe; go on where it stopped")
    run.add_argument("recipe", type=Path, help="YAML recipe, or the name of a shipped one")
    run.add_argument("--dry-run", action="store_true", help="validate everything and estimate cost, compute nothing")
    run.add_argument(
        "--from", dest="redo_from", metavar="STAGE", help="delete the results from this stage on and redo them"
    )
    _add_overrides(run)
    _add_skip_bad_records(run)

    plan = commands.add_parser("plan", help="memory, time and cost of every step on given devices, before any of them")
    add_plan(plan)
    _add_overrides(plan)
    _add_skip_bad_records(plan)

    for name, text in _STAGE_HELP.items():
        stage = commands.add_parser(name, help=text, description=text.capitalize() + ".")
        stage.add_argument(
            "recipe", type=Path, nargs="?", help="YAML recipe, or the name of a shipped one: work in its run folder"
        )
        _add_overrides(
            stage,
            "" if name == "playground" else f"; without a recipe: field=value of the section {name.replace('-', '_')}",
        )
        _STANDALONE_ARGUMENTS.get(name, _no_arguments)(stage)

    report = commands.add_parser("report", help="write the HTML and Markdown report of a run folder again")
    report.add_argument("run_dir", type=Path, help="run folder")
    report.add_argument("--ablation", type=Path, metavar="FILE", help="ablation.json to show (default: its own)")

    _add_check(commands.add_parser("check", help="hold an evaluation against demands, for CI"))

    _add_ablate(commands.add_parser("ablate", help="rerun the paper's ablation ladder on a recipe, with several seeds"))

    _add_judge(commands.add_parser("judge", help="let an LLM compare or rate answers; re-analyse stored judgements"))

    _add_baselines(
        commands.add_parser("baselines", help="train DPO, RLOO and plain SFT beside SteerLM, at equal tokens")
    )

    add_rate(commands.add_parser("rate", help="let people compare or rate answers on a local web page"))

    _add_compare(commands.add_parser("compare", help="compare systems in pairs on the same prompts", **_COMPARE))

    chat = commands.add_parser(
        "chat",
        allow_abbrev=False,  # an attribute may be called `max` or `sys`
        help="talk to a steerable model; every attribute is a flag",
        description="Talk to a steerable model. Every attribute of the model is a flag, for example --humor 3.",
    )
    chat.add_argument("model", type=Path, help="checkpoint folder")
    chat.add_argument("--attribute-model", type=Path, help="attribute model for /scores")
    chat.add_argument("--system", help="system prompt")
    chat.add_argument("--max-new-tokens", type=int, default=512, help="longest answer (default: %(default)s)")
    chat.add_argument("--temperature", type=float, default=0.7, help="0 = greedy (default: %(default)s)")
    chat.add_argument("--top-k", type=int, default=50, help="0 = all tokens (default: %(default)s)")
    chat.add_argument("--seed", type=int, default=0, help="seed of the sampling (default: %(default)s)")

    add_serve(commands.add_parser("serve", help="serve a steerable model behind OpenAI's API"))

    add_export(commands.add_parser("export", help="make a model ready for the hub, vLLM, llama.cpp and Ollama"))

    nemo = commands.add_parser("export-nemo", help="write conversations as NeMo-Aligner JSONL")
    nemo.add_argument("data", type=Path, help="conversations, JSONL")
    nemo.add_argument("out", type=Path, help="file to write")
    nemo.add_argument("--attributes", default="steerlm", help="schema preset or YAML file (default: %(default)s)")
    return parser


def _add_check(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("run_dir", type=Path, help="run folder, or a folder with a results.json")
    parser.add_argument(
        "--require", action="append", default=[], metavar="DEMAND",
        help='ATTRIBUTE.FIGURE OP NUMBER, for example "humor.spearman>=0.9" (repeatable)',
    )  # fmt: skip
    parser.add_argument("--max-leak", type=float, metavar="LEVELS", help="most that a dial may move another attribute")
    parser.add_argument(
        "--compare", choices=("estimate", "interval"), default="estimate",
        help="what must hold: the estimate, or the worse end of its 95 %% interval (default: %(default)s)",
    )  # fmt: skip
    parser.add_argument("--model", help="name of the model (default: the last one)")
    parser.add_argument("--scorer", help="id of the scorer (default: per attribute the first independent one)")


def _add_ablate(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="YAML recipe, or the name of a shipped one")
    parser.add_argument("--seeds", type=int, default=3, help="seeds, from the recipe's on (default: %(default)s)")
    parser.add_argument(
        "--rungs", nargs="+", default=[], metavar="RUNG",
        help="some of plain, human, best, predicted, more, bootstrap (default: all)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="folder to write to (default: the recipe's run folder and -ablation)")
    parser.add_argument("--dry-run", action="store_true", help="list the rungs and estimate cost, compute nothing")
    _add_overrides(parser)


def _add_judge(parser: argparse.ArgumentParser) -> None:
    protocols = ("vicuna", "mt-bench-pair", "mt-bench-single", "rubric")
    parser.add_argument("--protocol", choices=protocols, help="what to ask the judge")
    parser.add_argument(
        "--questions", type=Path, help="questions, JSONL (default: from answers that are conversations)"
    )
    parser.add_argument(
        "--answers", action="append", default=[], metavar="NAME=FILE", help="a system's answers, JSONL (repeatable)"
    )
    parser.add_argument("--references", type=Path, help="reference answers, JSONL (mt-bench)")
    parser.add_argument(
        "--baseline", metavar="NAME", help="compare with this system only, and give scores as its share"
    )
    parser.add_argument("--attributes", help="schema preset or YAML file: what the rubric rates")
    parser.add_argument("--reviews", type=Path, nargs="+", default=[], help="re-analyse stored judgements, ask nobody")
    parser.add_argument("--reparse", action="store_true", help="with --reviews: read the stored outputs anew")
    parser.add_argument("--out", type=Path, help="folder to write to; run again, it pays for nothing twice")
    parser.add_argument("--base-url", help="OpenAI-compatible endpoint (default: OPENAI_BASE_URL)")
    parser.add_argument("--model", help="the judge (default: STEERLM_JUDGE_MODEL); its key is OPENAI_API_KEY")
    parser.add_argument("--temperature", type=float, default=0.0, help="of the judge (default: %(default)s)")
    parser.add_argument(
        "--reasoning", action="store_true",
        help="the judge thinks first: no temperature, max_completion_tokens, and room to think",
    )  # fmt: skip
    parser.add_argument(
        "--max-tokens", type=int,
        help="its longest output, thinking included (default: the protocol's 512 to 2048; 8192 more with --reasoning)",
    )  # fmt: skip
    parser.add_argument("--max-in-flight", type=int, default=8, help="requests at once (default: %(default)s)")
    parser.add_argument("--price-in", type=float, help="price of a million tokens read, for the estimate")
    parser.add_argument("--price-out", type=float, help="price of a million tokens written")
    parser.add_argument("--dry-run", action="store_true", help="estimate requests, tokens and cost; ask nobody")
    parser.add_argument("--yes", action="store_true", help="do not ask before it costs money")


def _add_baselines(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("recipe", type=Path, help="YAML recipe, or the name of a shipped one")
    parser.add_argument("--seeds", type=int, default=3, help="seeds, from the recipe's on (default: %(default)s)")
    parser.add_argument(
        "--out", type=Path, help="folder of `steerlm ablate`; what is there is used again (default: as there)"
    )
    _add_overrides(parser)


_COMPARE: dict[str, Any] = {
    "description": "Compare systems in pairs on the same prompts: win rates, Elo, Bradley-Terry, all with intervals.",
    "epilog": """\
a system is NAME= and one of
  runs/x/bootstrap/model@humor=4,verbosity=1   a steerable checkpoint; dials not named stand at their defaults
  some-org/some-chat-model                     any Hugging Face chat model, a folder or an id
  https://host/v1#model-name                   an OpenAI-compatible endpoint (key: OPENAI_API_KEY)
  answers.jsonl                                stored answers: ours, FastChat's or QLoRA's
""",
    "formatter_class": argparse.RawDescriptionHelpFormatter,
}


def _add_compare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("systems", nargs="+", metavar="NAME=WHERE", help="two or more systems; see below")
    parser.add_argument("--prompts", type=Path, required=True, help="conversations or FastChat questions, JSONL")
    parser.add_argument("--out", type=Path, required=True, help="folder to write to; run again, it goes on")
    parser.add_argument(
        "--scorer", help="who decides: playground, text (exact measures) or the folder of an attribute model"
    )
    parser.add_argument(
        "--weights", metavar="NAME=NUMBER,…",
        help="what counts as better, for example helpfulness=1,toxicity=-0.5 "
        "(default: 1 or -1 for every attribute with a best end)",
    )  # fmt: skip
    parser.add_argument(
        "--tie-margin", type=float, default=0.0, help="weighted differences up to this are ties (default: %(default)s)"
    )
    parser.add_argument(
        "--judge", metavar="MODEL", help="let this model at an OpenAI-compatible endpoint decide instead"
    )
    parser.add_argument("--judge-url", metavar="URL", help="its endpoint (default: OPENAI_BASE_URL)")
    parser.add_argument("--judge-reasoning", action="store_true", help="it thinks first: see `steerlm judge`")
    parser.add_argument(
        "--judge-max-tokens", type=int, metavar="N", help="its longest output, thinking included (default: as there)"
    )
    parser.add_argument("--protocol", choices=("vicuna", "mt-bench-pair"), default="vicuna", help="what it is asked")
    parser.add_argument("--references", type=Path, help="reference answers for the judge, JSONL (mt-bench)")
    parser.add_argument("--yes", action="store_true", help="do not ask before the judge costs money")
    parser.add_argument("--num-prompts", type=int, help="use so many, drawn at random (default: all)")
    parser.add_argument("--elo-games", type=int, metavar="N", help="games per random order of Elo (default: all)")
    parser.add_argument("--max-new-tokens", type=int, default=512, help="longest answer (default: %(default)s)")
    parser.add_argument("--temperature", type=float, default=0.7, help="0 = greedy (default: %(default)s)")
    parser.add_argument("--top-k", type=int, default=50, help="0 = all tokens (default: %(default)s)")
    parser.add_argument("--batch-size", type=int, default=64, help="answers decoded together (default: %(default)s)")
    parser.add_argument("--precision", choices=("auto", "fp32", "bf16"), default="auto", help="of the weights")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: %(default)s)")


def _add_overrides(parser: argparse.ArgumentParser, note: str = "") -> None:
    parser.add_argument(
        "--set", dest="overrides", action="append", default=[], metavar="KEY=VALUE",
        help="override a value of the recipe, for example train_sft.epochs=2 (repeatable)" + note,
    )  # fmt: skip


def _add_skip_bad_records(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--skip-bad-records", dest="overrides", action="append_const", const="prepare.skip_bad_records=true",
        help="count and list malformed records of the sources instead of stopping",
    )  # fmt: skip


def _no_arguments(parser: argparse.ArgumentParser) -> None:
    """The command works on recipes only."""


def _prepare_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--source", action="append", default=[], metavar="FORMAT:PATH", help="a data file (repeatable)")
    _add_skip_bad_records(parser)
    _schema_out_seed(parser)


def _training_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--base-model", help="Hugging Face id or local folder")
    parser.add_argument("--train", type=Path, help="training conversations, JSONL")
    parser.add_argument("--validation", type=Path, help="validation conversations, JSONL")
    _schema_out_seed(parser)


def _annotate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--model", type=Path, help="attribute model")
    parser.add_argument("--data", type=Path, nargs="+", help="conversations, JSONL")
    parser.add_argument("--out", type=Path, help="folder to write to")
    _cluster(parser)


def _bootstrap_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--sft-model", type=Path, help="steerable checkpoint to sample from")
    parser.add_argument("--attribute-model", type=Path, help="attribute model that scores the samples")
    parser.add_argument("--base-model", help="model that start_from: base starts from")
    parser.add_argument("--data", type=Path, help="annotated training conversations, JSONL")
    parser.add_argument("--validation", type=Path, help="annotated validation conversations, JSONL")
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: %(default)s)")
    _cluster(parser)


def _cluster(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--ray",
        metavar="ADDRESS",
        help="work on a Ray cluster: local (all of this machine), auto (the one it belongs to) or HOST:PORT",
    )
    parser.add_argument("--workers", type=int, help="engines on the cluster (default: one per GPU or CPU slot)")


def _evaluate_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--model", action="append", default=[], metavar="NAME=PATH", help="steerable checkpoint (repeatable)"
    )
    parser.add_argument("--prompts", help="conversations that end with a user turn, JSONL (suite toxicity: HH-RLHF)")
    parser.add_argument("--suite", choices=("toxicity", "humor"), help="only this experiment of the paper")
    parser.add_argument(
        "--annotator",
        type=Path,
        help="attribute model that labelled the training data: measures, but is not independent",
    )
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: %(default)s)")


def _schema_out_seed(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--attributes", help="schema preset (oasst, helpsteer, steerlm, paper) or YAML file with a list"
    )
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--seed", type=int, default=0, help="seed of every random choice (default: %(default)s)")


_STANDALONE_ARGUMENTS = {
    "prepare": _prepare_arguments,
    "train-attribute-model": _training_arguments,
    "annotate": _annotate_arguments,
    "train-sft": _training_arguments,
    "bootstrap": _bootstrap_arguments,
    "evaluate": _evaluate_arguments,
}

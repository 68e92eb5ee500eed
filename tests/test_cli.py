"""The command line: names, flags, mistakes told early, overrides, exit statuses, completion."""

from __future__ import annotations

import argparse
import logging
import os
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import orjson
import pytest
import yaml

import steerlm
from steerlm.__main__ import COMMANDS, build_parser, main
from steerlm.attributes import OASST
from steerlm.checkpoint.info import CheckpointInfo, save_info
from steerlm.config import apply_overrides, parse_overrides
from steerlm.errors import UserError
from tests.test_config import MINIMAL

SEARCHED = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
HEAVY = "{'torch', 'transformers'} & set(sys.modules)"


def in_process(*argv: str, forbidden: str = HEAVY, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    """Run a command in a process of its own, which fails where something heavy was imported."""
    code = (
        "import sys\nfrom steerlm.__main__ import main\n"
        f"try:\n    status = main({list(argv)!r})\nexcept SystemExit as error:\n    status = error.code\n"
        f"heavy = {forbidden}\nassert not heavy, heavy\nsys.exit(status)\n"
    )
    environment = {**os.environ, "PYTHONPATH": SEARCHED}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=cwd)


def test_help_imports_neither_torch_nor_pydantic() -> None:
    done = in_process("--help", forbidden="{'torch', 'transformers', 'pydantic', 'numpy', 'rich'} & set(sys.modules)")
    assert done.returncode == 0, done.stderr
    for name in COMMANDS:
        assert re.search(rf"^    {name}\s", done.stdout, re.MULTILINE), name


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_says_what_it_is(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as error:
        main([name, "--help"])
    assert error.value.code == 0
    text = capsys.readouterr().out
    assert f"usage: steerlm {name}" in text
    assert len(text.split("\n\n")[1]) > 20


def test_overrides_are_yaml_at_dotted_places() -> None:
    assert parse_overrides(["a.b=2", "c=null", "d=[x, y]", "e=p=q"]) == {
        "a.b": 2,
        "c": None,
        "d": ["x", "y"],
        "e": "p=q",
    }
    for pair, words in (("oops", "not of the form key=value"), ("a=[1", "not a YAML value"), ("a..b=1", "form")):
        with pytest.raises(UserError, match=words):
            parse_overrides([pair])
    raw = {"name": "x", "lora": None, "sources": [{"path": "a"}, {"path": "b"}]}
    changed = apply_overrides(raw, {"sources.1.path": "c", "lora.rank": 4, "new.deep.key": 1})
    assert changed["sources"] == [{"path": "a"}, {"path": "c"}]
    assert (changed["lora"], changed["new"]) == ({"rank": 4}, {"deep": {"key": 1}})
    assert raw == {"name": "x", "lora": None, "sources": [{"path": "a"}, {"path": "b"}]}, "the recipe itself stays"
    for key, words in (
        ("sources.2.path", "'2' is no entry of sources, a list of 2"),
        ("sources.b", "'b' is no entry"),
        ("name.deep", "'name' is not a section, its value is 'x'"),
    ):
        with pytest.raises(UserError, match=re.escape(words)):
            apply_overrides(raw, {key: 1})


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A working directory with a recipe, data, and folders that pass for checkpoints where weights do not matter."""
    row = {"id": "1", "messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}
    (tmp_path / "t.jsonl").write_bytes(orjson.dumps(row))
    (tmp_path / "table.csv").write_text("prompt,response\nq,a\n")
    (tmp_path / "rows.jsonl").write_text('{"prompt": "q", "completion": "a"}\n')
    (tmp_path / "plain.jsonl").write_bytes(orjson.dumps({"messages": row["messages"]}))
    row["messages"][1]["role"] = "bot"  # type: ignore[index]
    (tmp_path / "bot.jsonl").write_bytes(orjson.dumps(row))
    (tmp_path / "list.json").write_bytes(orjson.dumps([row]))
    recipe = {
        **MINIMAL,
        "run_dir": "run",
        "prepare": {"sources": [{"name": "a", "format": "messages", "path": "no.jsonl"}]},
    }
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(recipe))
    (tmp_path / "good.yaml").write_text(
        yaml.safe_dump({**recipe, "prepare": {"sources": [{**recipe["prepare"]["sources"][0], "path": "t.jsonl"}]}})
    )
    statistics = {"attributes": {name: {"n": 3, "histogram": {"0": 2, "4": 1}} for name in OASST.names}}
    for kind in ("sft", "regression"):
        (tmp_path / kind).mkdir()
        (tmp_path / kind / "config.json").write_text("{}")
        save_info(tmp_path / kind, CheckpointInfo(kind, OASST, "steerlm", label_statistics=statistics))  # type: ignore[arg-type]
    (tmp_path / "run2").mkdir()
    (tmp_path / "run2" / "recipe.yaml").write_text("name: x")
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "done.json").write_text('{"stage": "annotate"}')
    monkeypatch.chdir(tmp_path)
    return tmp_path


SFT = ["train-sft", "--base-model", "sft", "--train", "t.jsonl", "--attributes", "oasst"]
LABEL = ["label", "--with", "people", "--attributes", "oasst", "--out", "OUT"]
MISTAKES: list[tuple[list[str], str]] = [
    (["run", "nowhere.yaml"], "no such recipe: nowhere.yaml"),
    (["run", "r.yaml"], "prepare.sources: a: no such file or folder: no.jsonl"),
    (
        ["run", "good.yaml", "--set", "train_sft.base_model=./nowhere"],
        "train_sft.base_model: no such folder: ./nowhere",
    ),
    (
        ["run", "good.yaml", "--set", "train_sft.deepspeed=z.json"],
        "train_sft.deepspeed: no such file or folder: z.json",
    ),
    (["run", "good.yaml", "--set", "bootstrap.judge=j"], "bootstrap.judge: no such file or folder: j"),
    (["run", "good.yaml", "--set", "refine.groups=g.jsonl"], "refine.groups: no such file or folder: g.jsonl"),
    (
        ["run", "good.yaml", "--set", "evaluate.classifiers=[{model: ./c, labels: {a: quality}}]"],
        "evaluate.classifiers: no such folder: ./c",
    ),
    (["run", "good.yaml", "--from", "train_stf"], "did you mean 'train_sft'"),
    (["run", "good.yaml", "--threads", "0"], "--threads must be at least 1, got 0"),
    (["run", "good.yaml", "--set", "train_sftt.epochs=2"], "unknown key 'train_sftt': did you mean 'train_sft'"),
    (["run", "good.yaml", "--set", "train_sft.lora.rnk=2"], "unknown key 'train_sft.lora.rnk': did you mean 'rank'"),
    (["train-sft", "good.yaml"], "is not done"),
    (["playground"], "needs a recipe"),
    (["plan", "nowhere.yaml"], "no such recipe"),
    (["plan", "good.yaml", "--tokens", "many"], "--tokens 'many'"),
    (["prepare", "--out", "OUT", "--source", "chats.jsonl", "--attributes", "oasst"], "FORMAT:PATH"),
    (["prepare", "--out", "OUT", "--source", "nope:t.jsonl", "--attributes", "oasst"], "format"),
    (["prepare", "--out", "OUT", "--source", "messages:no.jsonl", "--attributes", "oasst"], "no such file or folder"),
    (["prepare", "--out", "OUT", "--source", "messages:t.jsonl"], "--attributes is missing"),
    (
        ["prepare", "--out", "taken", "--source", "messages:t.jsonl", "--attributes", "oasst"],
        "`steerlm annotate` wrote",
    ),
    (["prepare", "--out", "run2", "--source", "messages:t.jsonl", "--attributes", "oasst"], "is the folder of a run"),
    (["annotate", "--model", "regression", "--out", "OUT"], "--data is missing"),
    (["annotate", "--model", "regression", "--data", "no.jsonl", "--out", "OUT"], "--data: no such file: no.jsonl"),
    (
        ["annotate", "--model", "regression", "--data", "t.jsonl", "plain.jsonl", "--out", "OUT"],
        "plain.jsonl:1: the record has no id; `steerlm prepare --source messages:plain.jsonl",
    ),
    ([*SFT, "--validation", "plain.jsonl", "--out", "OUT"], "no id; `steerlm prepare --source messages:plain.jsonl"),
    (["annotate", "--model", "sft", "--data", "t.jsonl", "--out", "OUT"], "is a steerable model"),
    (["annotate", "--model", "no", "--data", "t.jsonl", "--out", "OUT"], "no such checkpoint folder: no"),
    (["annotate", "--model", "regression", "--data", "t.jsonl", "--out", "t.jsonl"], "is a file"),
    (["annotate", "good.yaml", "--workers", "2"], "--workers is the number of engines on a cluster"),
    ([*SFT, "--out", "OUT"], "--validation is missing"),
    ([*SFT, "--out", "OUT", "--validation", "no.jsonl"], "--validation: no such file: no.jsonl"),
    ([*SFT, "--out", "OUT", "--validation", "t.jsonl", "--set", "lora.rnk=4"], "unknown key 'lora.rnk'"),
    ([*SFT, "--out", "OUT", "--validation", "t.jsonl", "--attributes", "oast"], "did you mean 'oasst'"),
    (["train-attribute-model", *SFT[1:], "--base-model", "./no", "--validation", "t.jsonl", "--out", "OUT"], "./no"),
    (
        ["train-attribute-model", *SFT[1:], "--base-model", "run2", "--validation", "t.jsonl", "--out", "OUT"],
        "config.json",
    ),
    (["bootstrap", "--sft-model", "sft", "--out", "OUT"], "--attribute-model is missing"),
    (["bootstrap", "--sft-model", "regression", "--out", "OUT"], "--sft-model: regression is a regression attribute"),
    (["evaluate", "--out", "OUT", "--prompts", "p"], "--model is missing"),
    (["evaluate", "--out", "OUT", "--model", "a/sft", "--model", "b/sft"], "the name 'sft' stands twice"),
    (["evaluate", "--out", "OUT", "--model", "sft", "--prompts", "no.jsonl"], "--prompts: no such file: no.jsonl"),
    (["evaluate", "--out", "OUT", "--model", "sft", "--prompts", "t.jsonl", "--annotator", "sft"], "--annotator: sft"),
    (["judge", "export", "--out", "OUT"], "--attributes is missing; give a preset (oasst, "),
    (["label", "t.jsonl", "--with", "measure", "--out", "OUT"], "--attributes is missing; give a preset (oasst, "),
    (["report", "taken", "--out", "OUT"], "--out: out is no name of a report; give a file that ends in .html or .md"),
    (["report", "nowhere"], "no such run folder"),
    (["check", "nowhere", "--max-leak", "1"], "nowhere"),
    (["ablate", "good.yaml", "--seeds", "0"], "--seeds must be at least 1"),
    (["ablate", "good.yaml", "--rungs", "plane"], "did you mean 'plain'"),
    (["baselines", "good.yaml", "--seeds", "0"], "--seeds must be at least 1"),
    (["judge", "--out", "OUT", "--answers", "a=no.jsonl"], "--answers: no such file: no.jsonl"),
    (["judge", "--out", "OUT", "--reviews", "no.jsonl"], "--reviews: no such file: no.jsonl"),
    (["rate", "new", "study", "--answers", "a=no.jsonl", "--answers", "b=t.jsonl"], "no.jsonl"),
    (["rate", "serve", "study", "--port", "99999"], "--port must be 0 to 65535"),
    (["compare", "a=sft", "b=sft", "--prompts", "no.jsonl", "--scorer", "text", "--out", "OUT"], "--prompts: no such"),
    (["compare", "a=sft", "b=sft", "--prompts", "t.jsonl", "--scorer", "sft", "--out", "OUT"], "--scorer: sft is a"),
    (["compare", "a=sft", "b=sft", "--prompts", "t.jsonl", "--top-k", "-1", "--out", "OUT"], "--top-k must be"),
    (["chat", "nowhere"], "no such checkpoint folder: nowhere"),
    (["chat", "regression"], "is a regression attribute model"),
    (["chat", "sft", "--attribute-model", "sft"], "not an attribute model"),
    (["chat", "sft", "--humour", "3"], "did you mean 'humor'"),
    (["chat", "sft", "--cmmand", "3"], "no attribute 'cmmand': its dials: quality, toxicity, humor, creativity\n"),
    (["chat", "sft", "--humor", "4.5"], "humor: 4.5 is not a number from 0 to 4"),
    (["chat", "sft", "--preset", "teachr"], "no preset 'teachr'"),
    (["chat", "sft", "--strength", "humor"], "ATTRIBUTE=NUMBER"),
    (["chat", "sft", "--temperature", "-1"], "--temperature must be at least 0"),
    (["serve", "nowhere"], "no such checkpoint folder: nowhere"),
    (["serve", "sft", "--policy", "no.yaml"], "--policy: no such file: no.yaml"),
    (["serve", "sft", "--attribute-model", "sft"], "--attribute-model: sft is a steerable model"),
    (["serve", "sft", "--port", "99999"], "--port must be 0 to 65535"),
    (["export", "nowhere", "--out", "OUT"], "no such folder: nowhere"),
    (["export", "sft", "--out", "OUT", "--results", "no.json"], "--results: no such file"),
    (
        ["label", "t.jsonl", "--attributes", "oasst"],
        "--with is missing: who labels t.jsonl (measure,",
    ),
    (["label", "t.jsonl"], "--with is missing"),
    (["label", "nowhere.yaml"], "no such recipe"),
    ([*LABEL, "table.csv"], "`steerlm prepare --source table:table.csv --columns prompt=COLUMN,response=COLUMN"),
    ([*LABEL, "rows.jsonl"], "`steerlm prepare --source table:rows.jsonl --columns"),
    ([*LABEL, "bot.jsonl"], "role 'bot' is not one of system, user, assistant; `steerlm prepare --source messages:bot"),
    (
        [*LABEL, "list.json"],
        "JSON object per line; `steerlm prepare --source messages:list.json",
    ),
    (["rate", "new", "study", "--data", "table.csv", "--attributes", "oasst"], "prepare --source table:table.csv"),
    (["pairs", "--texts", "table.csv", "--out", "OUT"], "--texts: table.csv is no JSONL"),
    (["pairs", "--rewrites", "bot.jsonl", "--out", "OUT"], "prepare --source messages:bot.jsonl"),
    (["export-nemo", "no.jsonl", "b"], "no such file: no.jsonl"),
    (["export-nemo", "t.jsonl", "b", "--attributes", "oast"], "did you mean 'oasst'"),
]


@pytest.mark.parametrize(("argv", "words"), MISTAKES, ids=lambda value: " ".join(value)[:60] if value else "")
def test_a_users_mistake_is_one_line_and_status_2(
    argv: list[str], words: str, place: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = set(place.rglob("*"))
    assert main(["out" if word == "OUT" else word for word in argv]) == 2
    captured = capsys.readouterr().err
    assert words in captured
    assert captured.splitlines()[-1].startswith("steerlm: error: ")
    assert "Traceback" not in captured
    assert {path.name for path in set(place.rglob("*")) - before} <= {
        "run",
        "lock",
        "recipe.yaml",
        "environment.json",
        "inputs.json",
    }


def test_no_mistake_waits_for_torch(place: Path) -> None:
    """All of them in one process: what one imports, the next would have too."""
    argvs = [["out" if word == "OUT" else word for word in argv] for argv, _ in MISTAKES]
    code = (
        "import sys\nfrom steerlm.__main__ import main\n"
        f"for argv in {argvs!r}:\n    assert main(argv) == 2, argv\n"
        f"    heavy = {HEAVY}\n    assert not heavy, (argv, heavy)\n"
    )
    environment = {**os.environ, "PYTHONPATH": SEARCHED}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


@pytest.mark.parametrize(
    ("argv", "usage", "words"),
    [
        (["run", "x.yaml", "--humor", "3"], "steerlm run", "unknown flag --humor"),
        (["run", "x.yaml", "--model", "m"], "steerlm run", "unknown flag --model: valid: --help, "),
        (["run", "x.yaml", "--dryrun"], "steerlm run", "did you mean '--dry-run'"),
        (["train-sft", "--base_model", "x"], "steerlm train-sft", "did you mean '--base-model'"),
        (["compare", "a=b", "--promts=x", "--out", "o"], "steerlm compare", "did you mean '--prompts'"),
        (["rate", "new", "study", "--anwsers", "a=b"], "steerlm rate new", "did you mean '--answers'"),
        (["serve", "m", "--engine", "vlm"], "steerlm serve", "did you mean 'vllm'"),
        (["train_sft", "r.yaml"], "steerlm", "did you mean 'train-sft'"),
        (["anotate"], "steerlm", "did you mean 'annotate'"),
        (["rate", "results2"], "steerlm rate", "did you mean 'results'"),
        (["report", "a", "b"], "steerlm report", "unrecognized arguments: b"),
    ],
)
def test_unknown_names_print_the_commands_usage_and_the_nearest_one(
    argv: list[str], usage: str, words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as error:
        main(argv)
    assert error.value.code == 2
    captured = capsys.readouterr().err
    assert re.match(rf"usage: {usage} \[-h\]", captured), captured
    assert words in captured.splitlines()[-1]


def test_chat_prints_its_usage_with_the_nearest_flag(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["chat", "sft", "--temprature", "1"]) == 2
    captured = capsys.readouterr().err
    assert captured.startswith("usage: steerlm chat ")
    assert "did you mean 'temperature'" in captured


def test_a_taken_port_is_told_before_anything_is_loaded(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = str(taken.getsockname()[1])
        assert main(["serve", "sft", "--port", port]) == 2
    [told] = capsys.readouterr().err.splitlines()
    assert told.startswith(f"steerlm: error: cannot listen on 127.0.0.1 port {port}")
    assert told.endswith("--port 0 takes any free port")


def test_a_source_of_any_file_name_gets_a_name(tmp_path: Path) -> None:
    (tmp_path / "my data (1).jsonl").write_text('{"instruction": "Tea?", "output": "Green."}\n')
    source = f"alpaca:{tmp_path / 'my data (1).jsonl'}"
    assert main(["prepare", "--out", str(tmp_path / "out"), "--source", source, "--attributes", "oasst"]) == 0
    assert '"source":"my-data-1-"' in (tmp_path / "out" / "train.jsonl").read_text()


def test_a_full_disk_is_reported_without_a_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    def full(*_: object) -> Path:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("steerlm.reporting.report.write_report", full)
    assert main(["report", str(tmp_path)]) == 1
    captured = capsys.readouterr().err
    assert "No space left on device" in captured
    assert "the same command goes on" in captured


def test_a_new_folder_that_stays_empty_goes_again(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (place / "bad.jsonl").write_text("{oops")
    argv = ["prepare", "--out", "fresh/deep", "--source", "messages:bad.jsonl", "--attributes", "oasst"]
    assert main(argv) == 2
    assert "bad.jsonl:1" in capsys.readouterr().err
    assert not (place / "fresh" / "deep").exists()


def test_prepare_prints_what_it_left_out_and_why(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    said = [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a", "attributes": {"quality": 4}}]
    rows = [{"id": "1", "messages": said}, {"id": "2", "messages": said}, {"id": "3", "messages": []}]
    rows += [{"id": f"n{i}", "messages": [{"role": "user", "content": f"only {i}"}]} for i in range(2)]
    rows += [{"id": f"k{i}", "messages": [{"role": "user", "content": f"q{i}"}, said[1]]} for i in range(5)]
    (place / "a.jsonl").write_bytes(b"\n".join(map(orjson.dumps, rows)))
    argv = ["prepare", "--source", "messages:a.jsonl", "--attributes", "oasst", "--skip-bad-records", "--out", "o"]
    assert main(argv) == 0
    text = capsys.readouterr().out
    report = orjson.loads((place / "o" / "report.json").read_bytes())
    assert f"{report['train']['records']} records to train on" in text
    assert len(report["losses"]) >= 3
    for loss in report["losses"]:
        assert loss in text
    for warning in report["warnings"]:
        assert warning in text
    assert "warning a: records without a response: 2 left out (20.0 %)" in text


def test_threads_are_chosen_before_torch_is_loaded(place: Path) -> None:
    code = (
        "import os, sys\nfrom steerlm.__main__ import main\nmain(['train-sft', 'good.yaml', '--threads', '1'])\n"
        "assert os.environ['OMP_NUM_THREADS'] == '1'\nassert 'torch' not in sys.modules\n"
        "import torch\nassert torch.get_num_threads() == 1, torch.get_num_threads()\n"
    )
    environment = {**os.environ, "PYTHONPATH": SEARCHED, "OMP_NUM_THREADS": "2"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 0, done.stderr[-2000:]


def test_the_package_runs_as_a_module(place: Path) -> None:
    environment = {**os.environ, "PYTHONPATH": SEARCHED}
    command = [sys.executable, "-m", "steerlm", "run", "nowhere.yaml"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    assert done.returncode == 2
    assert done.stderr.startswith("steerlm: error: no such recipe: nowhere.yaml")


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion_code_names_the_program(shell: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", shell]) == 0
    text = capsys.readouterr().out
    assert "steerlm" in text
    assert "_ARGCOMPLETE" in text


def test_the_tab_key_completes_commands_and_flags(tmp_path: Path) -> None:
    def completed(line: str) -> set[str]:
        environment = {
            **os.environ,
            "PYTHONPATH": SEARCHED,
            "_ARGCOMPLETE": "1",
            "_ARGCOMPLETE_IFS": "\n",
            "_ARGCOMPLETE_STDOUT_FILENAME": str(tmp_path / "out"),
            "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
            "COMP_LINE": line,
            "COMP_POINT": str(len(line)),
        }
        (tmp_path / "out").write_text("")
        subprocess.run([sys.executable, "-m", "steerlm"], env=environment, check=False, timeout=30)
        return set((tmp_path / "out").read_text().split("\n"))

    assert completed("steerlm train-") == {"train-attribute-model", "train-sft"}
    assert "--dry-run" in completed("steerlm run --d")
    assert {"bash", "zsh", "fish"} <= completed("steerlm completion ")


def test_the_package_says_its_version_and_lists_its_lazy_names() -> None:
    assert re.fullmatch(r"\d+\.\d+.*", steerlm.__version__)
    assert {*steerlm.__all__, "__version__"} <= set(dir(steerlm))
    for name in steerlm.__all__:
        assert getattr(steerlm, name) is not None, name


def test_no_flag_is_an_abbreviation_of_a_dial() -> None:
    arguments, rest = build_parser().parse_known_args(["chat", "m", "--max", "3", "--sys", "1"])
    assert rest == ["--max", "3", "--sys", "1"]
    assert arguments.system is None


def test_what_a_stage_says_while_it_works_is_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def work(arguments: argparse.Namespace) -> int:
        logging.getLogger("steerlm.threads").info("training with %d thread(s)", 3)
        return 0

    monkeypatch.setattr(COMMANDS["check"], "run", work)
    for rank, shown in (("0", "  training with 3 thread(s)\n"), ("1", ""), ("0", "  training with 3 thread(s)\n")):
        monkeypatch.setenv("RANK", rank)
        assert main(["check", str(tmp_path)]) == 0
        assert capsys.readouterr().err == shown

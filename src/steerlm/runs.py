"""A run folder: the resolved recipe, the environment, one folder per stage and its `done.json`.

    runs/NAME/recipe.yaml  environment.json  inputs.json  <stage>/…  <stage>/done.json

A folder belongs to one recipe: running another one in it is an error, never a mix of both. What no stage has used yet
may still change: a mistake in the recipe is mended there, and the same command goes on.
"""

from __future__ import annotations

import contextlib
import hashlib
import importlib.metadata
import os
import platform
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NotRequired, TypedDict

import orjson
import yaml
from pydantic import ValidationError

from steerlm.attributes import AttributeSchema
from steerlm.config import Recipe, dump_recipe, format_and_path
from steerlm.errors import UserError
from steerlm.storage.files import data_files, write_json, write_text
from steerlm.storage.locks import held
from steerlm.storage.spending import peak_memory_mib, usable_cpus

STAGES = (
    "playground",
    "prepare",
    "label",
    "train_attribute_model",
    "annotate",
    "train_sft",
    "bootstrap",
    "refine",
    "contrast",
    "reinforce",
    "tune_guidance",
    "evaluate",
)
"""Every stage in order: module, subcommand (with hyphens), recipe section and run folder share the word."""

_STUDIES = ("baselines", "grow")
"""Sections of what is done beside a run; its stages do not look at them."""
_OF_NO_RESULT = ("description", "run_dir")
"""Keys that move no result: a folder is the same one from wherever its path is said."""
_BESIDE = "tune_guidance"
"""The stage that a finished run may be given, or its recipe may lack: it trains nothing and moves no other's files."""

_PACKAGES = ("steerlm", "torch", "transformers", "tokenizers", "accelerate", "peft", "datasets", "numpy", "scipy")


class StageRecord(TypedDict):
    """A `done.json`: what a stage took, and its own summary; `skipped` (it was done before) is not kept in the file."""

    stage: str
    seconds: float
    cpu_seconds: float
    peak_memory_mib: int | None
    resumed: bool
    summary: Any
    skipped: NotRequired[bool]


Notify = Callable[[str, StageRecord | None], None]
"""Called with a stage's name and None when it starts, and with its record when it is done."""


def environment() -> dict[str, object]:
    """Return what a reader needs to judge and repeat a run: versions and hardware, no paths or host names."""
    versions = {}
    for package in _PACKAGES:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            versions[package] = importlib.metadata.version(package)
    return {
        "python": platform.python_version(),
        "platform": f"{platform.system()} {platform.machine()}",
        "cpus": usable_cpus(),
        "cpu": _cpu_name(),
        "packages": versions,
    }


def _cpu_name() -> str:
    """Return the name of the CPU, and what it has of the instructions that the speed depends on most."""
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8").splitlines() if info.is_file() else []
    values = {line.split(":")[0].strip(): line.split(":", 1)[1].strip() for line in lines if ":" in line}
    flags = values.get("flags", "").split()
    known = [flag for flag in ("avx2", "avx512f", "avx512_bf16", "amx_bf16") if flag in flags]
    return f"{values.get('model name', 'unknown')} ({', '.join(known)})"


TUNING = ("train_sft", "bootstrap", "refine", "contrast", "reinforce")
"""Those that each publish a steerable model, the later ones starting from the one before."""


def tuning_stages(recipe: Recipe) -> list[str]:
    """Return the stages of the recipe that publish a steerable model, in order; the last one's is the run's."""
    return [stage for stage in TUNING if getattr(recipe, stage) is not None]


def recipe_stages(recipe: Recipe) -> list[str]:
    """Return the stages that the recipe asks for, in order; those that no attribute needs are left out."""
    schema = recipe.schema_
    learns = recipe.train_attribute_model is not None and schema.learned is not None
    needed = {
        "label": any(attribute.said_by == "judge" for attribute in schema),
        "train_attribute_model": learns,
        "annotate": recipe.annotate is not None and (learns or not all(attribute.learned for attribute in schema)),
    }
    return [stage for stage in STAGES if getattr(recipe, stage) is not None and needed.get(stage, True)]


@dataclass(frozen=True)
class RunPaths:
    """Where everything of a run lies: the one place that builds these paths."""

    path: Path

    def stage(self, name: str) -> Path:
        return self.path / name

    def model(self, stage: str) -> Path:
        """The checkpoint that a stage publishes."""
        return self.stage(stage) / "model"

    def done(self, stage: str) -> Path:
        return self.stage(stage) / "done.json"

    def report(self, stage: str) -> Path:
        """What `train_attribute_model` or a stage of `TUNING` found."""
        return self.stage(stage) / "report.json"

    def splits(self, stage: str) -> tuple[Path, Path]:
        """The training and the validation file of `prepare` or `annotate`."""
        return self.stage(stage) / "train.jsonl", self.stage(stage) / "validation.jsonl"

    @property
    def schema(self) -> Path:
        """The attributes with the cut points that `prepare` found; there only where it had some to find."""
        return self.stage("prepare") / "schema.json"

    @property
    def attribute_model(self) -> Path:
        """The checkpoint that labels."""
        return self.model("train_attribute_model")

    @property
    def recipe(self) -> Path:
        """The resolved recipe; a folder that holds it is a run folder."""
        return self.path / "recipe.yaml"

    @property
    def environment(self) -> Path:
        return self.path / "environment.json"

    @property
    def results(self) -> Path:
        return self.stage("evaluate") / "results.json"

    @property
    def annotation(self) -> Path:
        """What annotation found."""
        return self.stage("annotate") / "summary.json"

    def finished(self) -> list[str]:
        """The stages that are done, in order."""
        return [stage for stage in STAGES if self.done(stage).is_file()]


class RunFolder:
    """The folder of one recipe's run.

    Args:
        recipe: the resolved recipe; `recipe.run_dir` is the folder.

    Raises:
        UserError: the folder holds another recipe, or the input files changed since the run began.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self.path = recipe.run_dir
        self.paths = RunPaths(recipe.run_dir)

    def stage(self, name: str) -> Path:
        return self.paths.stage(name)

    @property
    def schema(self) -> AttributeSchema:
        """The attributes, with their cut points once `prepare` has found them."""
        if not self.paths.schema.is_file():
            return self.recipe.schema_
        return AttributeSchema.from_dict(orjson.loads(self.paths.schema.read_bytes()))

    @property
    def stages(self) -> list[str]:
        """The stages that the recipe asks for, in order."""
        return recipe_stages(self.recipe)

    @property
    def taught(self) -> tuple[Path, Path]:
        """The training and the validation file that an attribute model learns from."""
        return self.paths.splits("label" if "label" in self.stages else "prepare")

    @property
    def labelled(self) -> tuple[Path, Path]:
        """The training and the validation file that fine-tuning is conditioned on."""
        return self.paths.splits("annotate") if "annotate" in self.stages else self.taught

    @property
    def annotator(self) -> Path | None:
        """The attribute model that labels; None where no attribute needs one."""
        return self.paths.attribute_model if "train_attribute_model" in self.stages else None

    def check(self, redo_from: str | None = None) -> None:
        """Refuse a folder that is not the recipe's, as `open` does; writes nothing."""
        if self.paths.recipe.is_file():
            self._check_stored(redo_from)
        elif self.path.is_dir() and any(p.name != "lock" for p in self.path.iterdir()):
            raise UserError(f"{self.path} exists and holds no recipe.yaml; choose another run_dir or empty the folder")
        self._check_inputs(redo_from)

    def open(self, redo_from: str | None = None) -> None:
        """Claim the folder for the recipe, or check that it is already its own.

        Args:
            redo_from: delete what this stage and the later ones produced. Sections of those stages may differ from
                the stored recipe's, and of stages that have left nothing yet.
        """
        self.check(redo_from)
        if not is_main_process():
            return
        if redo_from is not None:
            for stage in STAGES[STAGES.index(redo_from) :]:
                folder = self.stage(stage)
                if folder.is_symlink():  # what it points to is somebody else's
                    folder.unlink()
                elif folder.exists():
                    shutil.rmtree(folder)
        write_text(self.paths.recipe, dump_recipe(self._to_store()))
        write_json(self.paths.environment, environment())
        write_json(self._inputs_record, self._inputs())

    def _check_stored(self, redo_from: str | None) -> None:
        stored, current = self._stored(), yaml.safe_load(dump_recipe(self.recipe))
        begun = [number for number, stage in enumerate(STAGES) if self._begun(stage)]
        redone = len(STAGES) if redo_from is None else STAGES.index(redo_from)
        if not begun or redone <= begun[0]:  # nothing that the stored recipe made is left
            return
        first_free = min(redone, begun[-1] + 1)
        free = {*STAGES[first_free:], *_STUDIES, *_OF_NO_RESULT}
        if current[_BESIDE] is None or not self._begun(_BESIDE):
            free.add(_BESIDE)
        changed = sorted(key for key in _differences(stored, current) if key.split(".")[0] not in free)
        if changed:
            # what belongs to no stage, such as the attributes and the seed, concerns all of them
            sections = {key.split(".")[0] for key in changed}
            first = min(STAGES.index(name) if name in STAGES else begun[0] for name in sections)
            raise UserError(
                f"{self.path} holds the run of another recipe (different: {', '.join(changed[:8])}); set another "
                f"run_dir, or redo what the change concerns with --from {STAGES[first].replace('_', '-')}"
            )

    def _stored(self) -> Any:
        return _completed(yaml.safe_load(self.paths.recipe.read_text(encoding="utf-8")))

    def _to_store(self) -> Recipe:
        """Return the recipe, with the section by which its model was tuned where it has none itself."""
        if getattr(self.recipe, _BESIDE) is not None or not self._begun(_BESIDE) or not self.paths.recipe.is_file():
            return self.recipe
        return Recipe.model_validate({**yaml.safe_load(dump_recipe(self.recipe)), _BESIDE: self._stored().get(_BESIDE)})

    def _begun(self, stage: str) -> bool:
        return self.stage(stage).is_dir() and any(self.stage(stage).iterdir())

    @property
    def _inputs_record(self) -> Path:
        return self.path / "inputs.json"

    def _input_files(self) -> dict[str, list[Path]]:
        """Return the files from outside that stages read, by stage."""
        prepare, evaluate = self.recipe.prepare, self.recipe.evaluate
        sources = [source.path for source in prepare.sources if source.path is not None]
        asked = evaluate.toxicity_prompts
        questions = None if asked is None else format_and_path(asked)[1]
        read = {
            "prepare": [*sources, *prepare.evaluation_prompts],
            "evaluate": [path for path in (evaluate.prompts, questions) if path is not None],
        }
        return {
            stage: [path for path in paths if path.exists() and self.path not in path.parents]
            for stage, paths in read.items()
        }

    def _inputs(self) -> dict[str, str]:
        """Return what identifies the input files."""
        return {str(path): _identity(path) for paths in self._input_files().values() for path in paths}

    def _check_inputs(self, redo_from: str | None) -> None:
        """Refuse to go on with other input files than those that a finished stage has read."""
        if not self._inputs_record.is_file():
            return
        stored = orjson.loads(self._inputs_record.read_bytes())
        redone = len(STAGES) if redo_from is None else STAGES.index(redo_from)
        for stage, paths in self._input_files().items():
            if self.done(stage) is None or redone <= STAGES.index(stage):
                continue
            for path in paths:
                if stored.get(str(path)) not in (None, _identity(path)):
                    raise UserError(
                        f"{path} changed since the run in {self.path} read it; set another run_dir or use "
                        f"--from {stage}"
                    )

    def done(self, stage: str) -> StageRecord | None:
        """Return the stage's `done.json`, or None while it is not finished."""
        path = self.paths.done(stage)
        return orjson.loads(path.read_bytes()) if path.is_file() else None

    def execute(
        self,
        stage: str,
        work: Callable[[Path], Mapping[str, Any]],
        notify: Notify | None = None,
        label: str | None = None,
    ) -> StageRecord:
        """Run `work` on the stage's folder unless the stage is done, and record summary, time and peak memory.

        Args:
            notify: told when it starts, and when it is done or was done before.
            label: what `notify` calls the stage (default: its name).
        """
        label = stage if label is None else label
        if (finished := self.done(stage)) is not None:
            if notify is not None:
                notify(label, {**finished, "skipped": True})
            return finished
        if notify is not None:
            notify(label, None)
        folder = self.stage(stage)
        resumed = folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        started, cpu = time.monotonic(), time.process_time()
        summary = dict(work(folder))
        record: StageRecord = {
            "stage": stage,
            "seconds": round(time.monotonic() - started, 2),
            "cpu_seconds": round(time.process_time() - cpu, 2),
            "peak_memory_mib": peak_memory_mib(),
            "resumed": resumed,
            "summary": summary,
        }
        if is_main_process():
            write_json(self.paths.done(stage), record)
        if notify is not None:
            notify(label, {**record, "skipped": False})
        return record

    @contextlib.contextmanager
    def lock(self) -> Iterator[None]:
        """Hold the folder against a second run; the other ranks of a distributed run share the first one's hold."""
        if not is_main_process():
            yield
            return
        busy = f"another process is running in {self.path}; wait for it or set another run_dir"
        with held(self.path / "lock", busy):
            yield


def is_main_process() -> bool:
    """Whether this process is rank 0 of a distributed launch (or the only one); it alone writes the run's records."""
    return os.environ.get("RANK", "0") == "0"


def _identity(path: Path) -> str:
    """Size and a hash of both ends: cheap on files of any size, and blind to a mere touch; of a folder, its files'."""
    if path.is_dir():
        digest = hashlib.blake2b(digest_size=12)
        for file in data_files(path):
            digest.update(f"{file.name}\0{_identity(file)}\0".encode())
        return digest.hexdigest()
    size = path.stat().st_size
    digest = hashlib.blake2b(digest_size=12)
    with path.open("rb") as stream:
        digest.update(stream.read(1 << 20))
        if size > 1 << 20:
            stream.seek(max(size - (1 << 20), 1 << 20))
            digest.update(stream.read(1 << 20))
    return f"{size}-{digest.hexdigest()}"


def _completed(stored: Any) -> Any:
    """Give a stored recipe the defaults of keys that are younger than its run."""
    try:
        return yaml.safe_load(dump_recipe(Recipe.model_validate(stored)))
    except ValidationError:  # it names keys that exist no more: compare it as it is
        return stored


def _differences(a: Any, b: Any, prefix: str = "") -> set[str]:
    if isinstance(a, dict) and isinstance(b, dict):
        found: set[str] = set()
        for key in a.keys() | b.keys():
            found |= _differences(a.get(key), b.get(key), f"{prefix}.{key}" if prefix else str(key))
        return found
    return set() if a == b else {prefix}

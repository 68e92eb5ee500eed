"""What a user names as a model: a folder of weights, a run folder in its place, or a name on the hub."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from steerlm.errors import UserError

if TYPE_CHECKING:
    from steerlm.checkpoint.info import CheckpointInfo


def base_model(name: str, option: str = "--base-model") -> str:
    """Return the name of a model on the hub, or of a folder that holds one."""
    path = Path(name)
    if path.is_dir():
        if not (path / "config.json").is_file():
            models = [path / "model", path.parent / "model", path.parent.parent / "model"]
            near = next((model for model in models if (model / "config.json").is_file()), None)
            inner = "" if near is None else f"; give {near}"
            raise UserError(f"{option}: {name} holds no model: it has no config.json{inner}")
    elif path.exists() or path.is_absolute() or name.startswith((".", "~")) or name.count("/") > 1:
        raise UserError(f"{option}: no such folder: {name}")
    return name


def is_run(path: Path) -> bool:
    """Whether a path is a run folder."""
    return (path / "recipe.yaml").is_file()


def model_folder(path: Path) -> Path:
    """Return the checkpoint that a path names: of a run folder its final model.

    Raises:
        UserError: a run that is not finished.
    """
    if not is_run(path):
        return path
    from steerlm.exporting.locating import model_of_run

    return model_of_run(path)


def in_run(text: str) -> str:
    """Return `NAME=FOLDER[@SETTING]` with a run folder replaced by its final model, anything else as it is."""
    name, _, where = text.partition("=")
    folder, at, setting = (where, "", "") if is_run(Path(where)) else where.partition("@")
    return f"{name}={model_folder(Path(folder))}{at}{setting}" if folder and is_run(Path(folder)) else text


def steerable_model(path: Path, option: str) -> tuple[Path, CheckpointInfo]:
    """Return a steerable checkpoint and what it says of itself; of a run folder its final model.

    Raises:
        UserError: no checkpoint, a model of another kind, or a run that is not finished.
    """
    from steerlm.checkpoint.info import load_info

    folder = model_folder(path)
    info = load_info(folder)
    if info.kind != "sft":
        raise UserError(
            f"{option}: {folder} is a {info.kind} attribute model; give a model that train-sft or bootstrap wrote"
        )
    return folder, info


def attribute_model(path: Path, option: str) -> Path:
    """Return a folder that holds an attribute model; of a run folder the one that the run trained.

    Raises:
        UserError: no checkpoint, a model of another kind, or a run that has none.
    """
    from steerlm.checkpoint.info import load_info

    if is_run(path):
        from steerlm.exporting.locating import model_of_run

        return model_of_run(path, attribute_model=True)
    if load_info(path).kind == "sft":
        raise UserError(f"{option}: {path} is a steerable model, not an attribute model")
    return path

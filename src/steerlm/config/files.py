"""The files and folders that a recipe names and a run reads."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from pathlib import Path

from steerlm.config.recipe import Recipe


def files_of(recipe: Recipe, stages: Collection[str]) -> Iterator[tuple[str, Path]]:
    """Yield key and path of every file that some stages read, but for those that the run makes and base models."""
    for key, path in _named(recipe, stages):
        if path is not None and recipe.run_dir not in path.parents:
            yield key, path


def _named(recipe: Recipe, stages: Collection[str]) -> Iterator[tuple[str, Path | None]]:
    if "prepare" in stages:
        yield from ((f"prepare.sources: {source.name}", source.path) for source in recipe.prepare.sources)
        yield from (("prepare.evaluation_prompts", path) for path in recipe.prepare.evaluation_prompts)
    if "train_attribute_model" in stages and recipe.train_attribute_model is not None:
        yield "train_attribute_model.deepspeed", recipe.train_attribute_model.deepspeed
    if "train_sft" in stages:
        yield "train_sft.deepspeed", recipe.train_sft.deepspeed
    if "bootstrap" in stages and recipe.bootstrap is not None:
        yield "bootstrap.judge", recipe.bootstrap.judge
    if "refine" in stages and recipe.refine is not None:
        yield "refine.groups", recipe.refine.groups
        yield "refine.response_model", recipe.refine.response_model
    if "evaluate" in stages:
        yield "evaluate.prompts", recipe.evaluate.prompts
        yield from (("evaluate.attribute_models", path) for path in recipe.evaluate.attribute_models)

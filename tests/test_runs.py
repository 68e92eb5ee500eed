from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from steerlm.config import build_recipe
from steerlm.errors import UserError
from steerlm.runs import STAGES, RunFolder, recipe_stages

from .test_config import MINIMAL


@pytest.fixture
def raw(tmp_path: Path) -> dict[str, object]:
    (tmp_path / "a.jsonl").write_text("one\n")
    recipe = yaml.safe_load(yaml.safe_dump(MINIMAL))
    recipe["run_dir"] = str(tmp_path / "run")
    recipe["prepare"]["sources"][0]["path"] = str(tmp_path / "a.jsonl")
    return recipe


def test_a_done_stage_is_not_run_again(raw: dict[str, object]) -> None:
    folder = RunFolder(build_recipe(raw))
    folder.open()
    calls = []

    def work(out: Path) -> dict[str, int]:
        calls.append(out)
        return {"records": 3}

    first = folder.execute("prepare", work)
    again = RunFolder(build_recipe(raw))
    again.open()
    assert again.execute("prepare", work) == first
    assert len(calls) == 1
    assert first["summary"] == {"records": 3}
    assert first["resumed"] is False


def test_a_stage_that_fails_is_not_done_and_counts_as_resumed(raw: dict[str, object]) -> None:
    folder = RunFolder(build_recipe(raw))
    folder.open()

    def fail(out: Path) -> dict[str, int]:
        (out / "kept.partial").write_text("x")
        raise OSError(28, "No space left on device")

    with pytest.raises(OSError, match="No space left"):
        folder.execute("prepare", fail)
    assert folder.done("prepare") is None
    assert (folder.stage("prepare") / "kept.partial").exists()
    assert folder.execute("prepare", lambda _: {})["resumed"] is True


def test_a_folder_of_another_recipe_is_refused_and_names_the_difference(raw: dict[str, object]) -> None:
    folder = RunFolder(build_recipe(raw))
    folder.open()
    folder.execute("train_sft", lambda _: {})
    other = build_recipe({**raw, "train_sft": {"base_model": "m", "epochs": 7}})
    with pytest.raises(UserError, match=r"holds the run of another recipe \(different: train_sft.epochs\)"):
        RunFolder(other).open()


def test_a_mistake_in_what_no_stage_has_used_yet_is_mended_in_the_recipe(raw: dict[str, object]) -> None:
    folder = RunFolder(build_recipe(raw))
    folder.open()
    folder.execute("prepare", lambda _: {})

    def fail(out: Path) -> dict[str, int]:
        raise UserError("no such model")

    with pytest.raises(UserError):
        folder.execute("train_attribute_model", fail)  # leaves an empty folder
    mended = RunFolder(build_recipe({**raw, "train_attribute_model": {"base_model": "other"}}))
    mended.open()
    assert mended.done("prepare") is not None
    assert yaml.safe_load((folder.path / "recipe.yaml").read_text())["train_attribute_model"]["base_model"] == "other"
    # what belongs to no stage, and to one that has begun, may not change any more
    for change in ({"seed": 5}, {"prepare": {**raw["prepare"], "skip_bad_records": True}}):  # type: ignore[dict-item]
        with pytest.raises(UserError, match="holds the run of another recipe"):
            RunFolder(build_recipe({**raw, **change})).open()


def test_where_nothing_of_the_old_run_stays_the_whole_recipe_may_change(raw: dict[str, object]) -> None:
    folder = RunFolder(build_recipe(raw))
    folder.open()
    for stage in ("prepare", "train_sft"):
        folder.execute(stage, lambda _: {})
    for change in ({"seed": 5}, {"attributes": [{"name": "warmth", "best": "max", "low": "as cold as ice"}]}):
        other = RunFolder(build_recipe({**raw, **change}))
        for redo_from in (None, "train_sft"):
            with pytest.raises(UserError, match=rf"different: {next(iter(change))}.*with --from prepare$"):
                other.check(redo_from)
        other.check("prepare")
    other.open("prepare")
    assert other.done("train_sft") is None
    assert yaml.safe_load((folder.path / "recipe.yaml").read_text())["attributes"][0]["name"] == "warmth"


def test_the_stage_to_redo_is_the_first_that_the_change_concerns(raw: dict[str, object]) -> None:
    folder = RunFolder(build_recipe(raw))
    folder.open()
    for stage in ("prepare", "train_attribute_model", "train_sft"):
        folder.execute(stage, lambda _: {})
    models = {stage: {"base_model": "other"} for stage in ("train_sft", "train_attribute_model")}
    changed = RunFolder(build_recipe({**raw, **models}))
    with pytest.raises(UserError, match=r"with --from train-attribute-model$"):
        changed.check("train_sft")
    changed.check("train_attribute_model")


def test_a_run_is_its_own_from_wherever_its_folder_is_named(
    raw: dict[str, object], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = RunFolder(build_recipe(raw))
    folder.open()
    folder.execute("prepare", lambda _: {})
    monkeypatch.chdir(tmp_path)
    again = RunFolder(build_recipe({**raw, "run_dir": "run", "description": "A word put right."}))
    again.open()
    assert again.done("prepare") is not None


def test_a_run_goes_on_after_a_new_version_added_a_key(raw: dict[str, object]) -> None:
    folder = RunFolder(build_recipe(raw))
    folder.open()
    folder.execute("train_sft", lambda _: {})
    recipe = folder.path / "recipe.yaml"
    stored = yaml.safe_load(recipe.read_text())
    del stored["train_sft"]["adam_beta2"]  # as if written before the key existed
    recipe.write_text(yaml.safe_dump(stored))
    RunFolder(build_recipe(raw)).open()
    changed = build_recipe({**raw, "train_sft": {"base_model": "m", "adam_beta2": 0.5}})
    with pytest.raises(UserError, match=r"train_sft\.adam_beta2"):
        RunFolder(changed).open()


def test_redo_from_keeps_earlier_stages_and_accepts_later_changes(raw: dict[str, object]) -> None:
    folder = RunFolder(build_recipe(raw))
    folder.open()
    for stage in ("prepare", "annotate", "train_sft"):
        folder.execute(stage, lambda _: {})
    changed = RunFolder(build_recipe({**raw, "train_sft": {"base_model": "m", "epochs": 7}}))
    changed.open(redo_from="train_sft")
    assert changed.done("annotate") is not None
    assert changed.done("train_sft") is None
    changed.execute("train_sft", lambda _: {})
    with pytest.raises(UserError, match=r"train_sft\.epochs"):
        RunFolder(build_recipe(raw)).open(redo_from="evaluate")


def test_a_stage_that_is_a_link_is_redone_without_what_it_points_to(raw: dict[str, object], tmp_path: Path) -> None:
    folder = RunFolder(build_recipe(raw))
    folder.open()
    other = tmp_path / "other"
    other.mkdir()
    (other / "done.json").write_text("{}")
    folder.stage("prepare").symlink_to(other)
    RunFolder(build_recipe(raw)).open(redo_from="prepare")
    assert not folder.stage("prepare").exists()
    assert (other / "done.json").is_file()


def test_a_foreign_folder_is_left_alone(raw: dict[str, object], tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.txt").write_text("precious")
    with pytest.raises(UserError, match=r"holds no recipe\.yaml"):
        RunFolder(build_recipe(raw)).open(redo_from="prepare")
    assert (tmp_path / "run" / "thesis.txt").read_text() == "precious"


def test_changed_input_is_refused_after_prepare_read_it(raw: dict[str, object], tmp_path: Path) -> None:
    folder = RunFolder(build_recipe(raw))
    folder.open()
    folder.execute("prepare", lambda _: {})
    (tmp_path / "a.jsonl").write_text("two\n")
    with pytest.raises(UserError, match=r"a\.jsonl changed since the run"):
        RunFolder(build_recipe(raw)).open()
    RunFolder(build_recipe(raw)).open(redo_from="prepare")


def test_other_prompts_than_a_finished_evaluation_has_asked_are_refused(raw: dict[str, object], tmp_path: Path) -> None:
    prompts, questions = tmp_path / "prompts.jsonl", tmp_path / "questions.jsonl"
    for path in (prompts, questions):
        path.write_text("one\n")
    given = {**raw, "evaluate": {"prompts": str(prompts), "toxicity_prompts": f"hh_rlhf:{questions}"}}
    folder = RunFolder(build_recipe(given))
    folder.open()
    folder.execute("prepare", lambda _: {})
    prompts.write_text("two\n")
    RunFolder(build_recipe(given)).open()  # nothing has read them yet
    folder.execute("evaluate", lambda _: {})
    for path in (prompts, questions):
        before = path.read_text()
        path.write_text("three\n")
        with pytest.raises(UserError, match=rf"{path.name} changed since the run .* --from evaluate"):
            RunFolder(build_recipe(given)).open()
        path.write_text(before)
    RunFolder(build_recipe(given)).open()
    prompts.write_text("four\n")
    RunFolder(build_recipe(given)).open(redo_from="evaluate")


def test_a_folder_of_input_whose_files_changed_is_refused(raw: dict[str, object], tmp_path: Path) -> None:
    data = tmp_path / "data"
    data.mkdir()
    (data / "a.jsonl").write_text("one\n")
    given = {**raw, "prepare": {"sources": [{"name": "a", "format": "messages", "path": str(data)}]}}
    folder = RunFolder(build_recipe(given))
    folder.open()
    folder.execute("prepare", lambda _: {})
    (data / "notes.txt").write_text("nobody reads them")
    RunFolder(build_recipe(given)).open()
    (data / "b.jsonl").write_text("two\n")
    with pytest.raises(UserError, match=r"data changed since the run"):
        RunFolder(build_recipe(given)).open()
    RunFolder(build_recipe(given)).open(redo_from="prepare")


def test_two_processes_cannot_share_a_folder(raw: dict[str, object]) -> None:
    folder = RunFolder(build_recipe(raw))
    with folder.lock(), pytest.raises(UserError, match="another process is running"), RunFolder(folder.recipe).lock():
        pass


def test_only_rank_zero_writes(raw: dict[str, object], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RANK", "1")
    folder = RunFolder(build_recipe(raw))
    with folder.lock():
        folder.open()
        folder.execute("prepare", lambda _: {})
    assert not (folder.path / "recipe.yaml").exists()
    assert folder.done("prepare") is None


QUALITY = {"name": "quality", "best": "max"}
WARMTH = {"name": "warmth", "judge": {"ratings": 5}}


def test_a_judge_without_an_attribute_model_is_refused(raw: dict[str, object]) -> None:
    with pytest.raises(UserError, match="'warmth': a judge's ratings teach an attribute model"):
        build_recipe({**raw, "attributes": [WARMTH], "train_attribute_model": None})


def test_stages_follow_the_recipe(raw: dict[str, object]) -> None:
    assert recipe_stages(build_recipe(raw)) == ["prepare", "train_attribute_model", "annotate", "train_sft", "evaluate"]
    sections = {key: {} for key in ("playground", "bootstrap", "refine", "contrast", "reinforce", "tune_guidance")}
    assert recipe_stages(build_recipe({**raw, **sections})) == [stage for stage in STAGES if stage != "label"]
    judged = build_recipe({**raw, **sections, "attributes": [QUALITY, WARMTH]})
    assert recipe_stages(judged) == list(STAGES)
    measured = {**raw, "attributes": [{"name": "length", "measure": "words"}]}
    assert recipe_stages(build_recipe(measured)) == ["prepare", "annotate", "train_sft", "evaluate"]
    labelled = {key: value for key, value in raw.items() if key != "train_attribute_model"}
    assert recipe_stages(build_recipe(labelled)) == ["prepare", "train_sft", "evaluate"]

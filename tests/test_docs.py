"""README and docs: generated blocks are up to date, links lead somewhere, and commands exist."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

import steerlm
from steerlm.__main__ import build_parser
from steerlm.runs import STAGES
from tests.docs_scripts import docs_script

ROOT = Path(__file__).resolve().parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


@pytest.fixture(scope="module")
def generate() -> ModuleType:
    return docs_script("generate")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_generated_blocks_are_up_to_date(page: Path, generate: ModuleType) -> None:
    text = page.read_text(encoding="utf-8")
    assert generate.fill(text) == text, "run `make docs`"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_relative_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)[^)]*\)", page.read_text(encoding="utf-8")):
        if "://" not in target:
            assert (page.parent / target).exists(), target


def test_every_stage_has_its_page() -> None:
    assert {path.stem for path in (ROOT / "docs" / "stages").glob("*.md")} >= set(STAGES)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_commands_in_the_pages_parse(page: Path) -> None:
    for block in re.findall(r"```bash\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        for line in block.splitlines():
            words = line.split("#")[0].split()
            if words[:1] in (["steerlm"], [".venv/bin/steerlm"]):
                build_parser().parse_known_args(words[1:])


def test_the_readme_is_short() -> None:
    assert len((ROOT / "README.md").read_text(encoding="utf-8").split()) <= 1200


def test_every_page_is_in_the_navigation_of_the_site() -> None:
    listed = re.findall(r"([\w/-]+\.md)$", (ROOT / "mkdocs.yml").read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(listed) == sorted(p.relative_to(ROOT / "docs").as_posix() for p in (ROOT / "docs").rglob("*.md"))


def test_the_page_of_the_python_api_has_every_public_name() -> None:
    page = (ROOT / "docs" / "python_api.md").read_text(encoding="utf-8")
    assert [name for name in steerlm.__all__ if name not in page] == []


def test_make_targets_of_the_readme_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), re.MULTILINE))
    for page in PAGES:
        assert set(re.findall(r"`?make ([a-z-]+)`?", page.read_text(encoding="utf-8"))) - {"a", "sure"} <= targets, page

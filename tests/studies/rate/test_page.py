"""The rating page in a real browser: chromium, headless, against the server as people start it."""

from __future__ import annotations

import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from steerlm.conversation import write_conversations
from steerlm.studies.rate.items import comparisons, order, rated_turns, swapped
from steerlm.studies.rate.store import Study, annotators, create_study, invite, read_answers
from tests.studies.rate.studies import SCHEMA, comparison, rating, two_turns, write_answers

expect.set_options(timeout=60_000)  # a machine may be busy; what is right is there at once

PHONE = {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page in a context of its own; whatever goes wrong inside it fails the test."""
    contexts, problems = [], []

    def open_(url: str, **options: object) -> Page:
        context = browser.new_context(**options)  # type: ignore[arg-type]
        context.set_default_timeout(60_000)
        contexts.append(context)
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
        page.on(
            "console", lambda message: problems.append(message.text) if "Failed to load" not in message.text else None
        )
        page.goto(url)
        return page

    yield open_
    for context in contexts:
        context.close()
    assert problems == []


@contextmanager
def serving(study: Study, port: int = 0) -> Iterator[tuple[subprocess.Popen[str], str]]:
    """Serve the study, at a free port unless one is named; gives the process and its address."""
    command = [sys.executable, "-m", "steerlm", "rate", "serve", str(study.folder), "--port", str(port)]
    server = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert server.stdout is not None
    try:
        yield server, next(line.split()[3].rstrip(";") for line in server.stdout if line.startswith("serving"))
    finally:
        server.send_signal(signal.SIGINT)
        server.wait(60)
        server.stdout.close()


@pytest.fixture
def compared(tmp_path: Path) -> Iterator[tuple[Study, str]]:
    study = comparison(tmp_path, num_prompts=5)
    for name in ("ana", "ben"):
        invite(study, [name])[0]
    with serving(study) as (_, url):
        yield study, f"{url}/#"


def link(study: Study, name: str) -> str:
    return next(annotator.token for annotator in annotators(study) if annotator.name == name)


def values(study: Study, name: str) -> list[str]:
    """Verdicts in the order in which this annotator sees the items."""
    by_item = {answer.item: answer.value for answer in read_answers(study) if answer.annotator == name}
    return [by_item[item] for item in order(0, name, study.num_items) if item in by_item]


def ready(page: Page, done: str) -> None:
    """Wait until the page shows this progress and takes keys."""
    expect(page.locator("#count")).to_have_text(done)
    expect(page.locator("body")).not_to_have_attribute("aria-busy", "true")


def press(page: Page, key: str, done: str) -> None:
    page.keyboard.press(key)
    ready(page, done)


def as_shown(study: Study, name: str, shown: list[str]) -> list[str]:
    mirror = {"first": "second", "second": "first"}
    sides = [swapped(0, name, item) for item in order(0, name, study.num_items)]
    return [mirror.get(value, value) if side else value for value, side in zip(shown, sides, strict=False)]


def test_keyboard_tie_undo_reload_and_the_end(compared: tuple[Study, str], open_page: Callable[..., Page]) -> None:
    study, url = compared
    page = open_page(url + link(study, "ana"))
    ready(page, "0 of 5 done")
    expect(page.locator("#keys")).to_contain_text("tie")
    press(page, "1", "1 of 5 done")
    press(page, "3", "2 of 5 done")
    press(page, "2", "3 of 5 done")
    shown = page.locator("#context").inner_text()
    page.reload()
    ready(page, "3 of 5 done")
    assert page.locator("#context").inner_text() == shown
    assert values(study, "ana") == as_shown(study, "ana", ["first", "tie", "second"])
    # back shows what was chosen; another choice replaces it and leads on to the first open item
    press(page, "u", "3 of 5 done")
    expect(page.get_by_role("button", name="Answer 2 is better")).to_have_attribute("aria-pressed", "true")
    press(page, "3", "3 of 5 done")
    assert page.locator("#context").inner_text() == shown
    assert values(study, "ana") == as_shown(study, "ana", ["first", "tie", "tie"])
    press(page, "s", "4 of 5 done")
    page.get_by_role("button", name="Answer 1 is better").click()
    expect(page.get_by_text("All done. Thank you!")).to_be_visible()
    assert values(study, "ana") == as_shown(study, "ana", ["first", "tie", "tie", "skip", "first"])
    press(page, "u", "5 of 5 done")
    expect(page.locator(".answer.chosen h2")).to_have_text("Answer 1")
    page.reload()
    expect(page.get_by_text("All done. Thank you!")).to_be_visible()


def test_two_annotators_and_a_wrong_link(compared: tuple[Study, str], open_page: Callable[..., Page]) -> None:
    study, url = compared
    ana, ben = (open_page(url + link(study, name)) for name in ("ana", "ben"))
    ready(ana, "0 of 5 done")
    press(ana, "1", "1 of 5 done")
    press(ana, "1", "2 of 5 done")
    ready(ben, "0 of 5 done")
    press(ben, "3", "1 of 5 done")
    assert values(study, "ana") == as_shown(study, "ana", ["first", "first"])
    assert values(study, "ben") == ["tie"]
    stranger = open_page(url + "guess")
    expect(stranger.get_by_text("This invitation link is not valid")).to_be_visible()
    expect(stranger.locator("#controls")).to_be_hidden()


def test_keys_can_be_switched_off_and_modifiers_are_left_alone(
    compared: tuple[Study, str], open_page: Callable[..., Page]
) -> None:
    study, url = compared
    page = open_page(url + link(study, "ana"))
    ready(page, "0 of 5 done")
    page.keyboard.press("Control+1")
    page.keyboard.press("Alt+2")
    page.get_by_label("Keyboard:").uncheck()
    page.keyboard.press("1")
    page.reload()
    expect(page.get_by_label("Keyboard:")).not_to_be_checked()
    page.keyboard.press("1")
    page.get_by_label("Keyboard:").check()
    ready(page, "0 of 5 done")
    press(page, "2", "1 of 5 done")
    assert values(study, "ana") == as_shown(study, "ana", ["second"])


def test_a_killed_server_loses_nothing(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    study = comparison(tmp_path, num_prompts=5)
    token = invite(study, ["ana"])[0].token
    with serving(study) as (server, url):
        page = open_page(f"{url}/#{token}")
        ready(page, "0 of 5 done")
        press(page, "1", "1 of 5 done")
        press(page, "2", "2 of 5 done")
        server.kill()  # SIGKILL
        server.wait(60)
        page.keyboard.press("3")  # given while nobody listens
        expect(page.get_by_role("alert")).to_contain_text("Not saved yet: the server does not answer")
        page.keyboard.press("1")  # dropped: the vote before it is not saved
        assert values(study, "ana") == as_shown(study, "ana", ["first", "second"])
    with serving(study, int(url.rsplit(":", 1)[1])):
        ready(page, "3 of 5 done")
        expect(page.get_by_role("alert")).to_be_hidden()
        assert values(study, "ana") == as_shown(study, "ana", ["first", "second", "tie"])
        page.reload()
        ready(page, "3 of 5 done")


NASTY = (
    "<script>window.hacked = 1; alert(1)</script><img src=x onerror='window.hacked = 1'>"
    "</div><style>body { display: none }</style> &lt;b&gt; \u202e evil \x07 <a href='javascript:alert(1)'>x</a>"
)


def test_markup_from_a_model_stays_text(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    files = {
        "one": write_answers(tmp_path / "one.jsonl", {"p": NASTY}, question=NASTY),
        "two": write_answers(tmp_path / "two.jsonl", {"p": "x" * 3000}, question=NASTY),
    }
    study = create_study(
        tmp_path / "study", comparisons(files, None, None, 0), question=NASTY, schema=None, systems=list(files), seed=0
    )
    name = "<b>ana</b>"
    token = invite(study, [name])[0].token
    with serving(study) as (_, url):
        page = open_page(f"{url}/#{token}", viewport=PHONE)
        ready(page, "0 of 1 done")
        said = page.locator(".said").all()
        texts = [node.text_content() for node in said]
        assert NASTY in texts
        assert texts[0] == f"{NASTY} (p)"
        assert page.locator("#question").text_content() == NASTY
        assert page.locator("#annotator").text_content() == name
        for node in said:
            assert node.evaluate("node => node.children.length") == 0
        assert page.evaluate("window.hacked") is None
        assert page.locator("img, main script, main style, main a").count() == 0
        # a word of 3000 letters does not push the page sideways either
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]


@pytest.fixture
def rated(tmp_path: Path) -> Iterator[tuple[Study, str]]:
    study = rating(tmp_path, 2)
    token = invite(study, ["ana"])[0].token
    with serving(study) as (_, url):
        yield study, f"{url}/#{token}"


def ratings(study: Study, position: int) -> dict[str, str]:
    item = order(0, "ana", study.num_items)[position]
    return {a.attribute: a.value for a in read_answers(study) if a.item == item and a.attribute}


def test_ratings_by_keyboard_on_a_phone(rated: tuple[Study, str], open_page: Callable[..., Page]) -> None:
    study, url = rated
    page = open_page(url, viewport=PHONE, color_scheme="dark")
    expect(page.locator(".turn .role")).to_have_text(["System prompt", "User", "Assistant", "User"])
    expect(page.locator(".answer .said")).to_contain_text("Then this")
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    expect(page.locator("fieldset.now legend")).to_have_text("humor")
    page.keyboard.press("3")
    page.keyboard.press("Enter")
    expect(page.get_by_role("alert")).to_have_text("Still to rate: helpfulness, lang")
    expect(page.locator("fieldset.now legend")).to_have_text("helpfulness")
    page.keyboard.type("92", delay=1)  # faster than the server answers: nothing is lost
    expect(page.get_by_role("button", name="Next")).to_be_enabled()
    ready(page, "1 of 2 done")
    assert ratings(study, 0) == {"humor": "3", "helpfulness": "9", "lang": "de"}
    page.get_by_role("button", name="Next").click()
    expect(page.locator("#status")).to_have_text("Item 2 of 2")
    page.get_by_role("group", name="humor").get_by_role("radio", name="0").check()
    page.get_by_role("radio", name="en").focus()
    page.keyboard.press("Space")
    expect(page.locator("#status")).to_have_text("lang en saved")
    page.reload()  # a half-rated item keeps what it has
    expect(page.locator("#status")).to_have_text("Item 2 of 2")
    expect(page.get_by_role("group", name="humor").get_by_role("radio", name="0")).to_be_checked()
    assert ratings(study, 1) == {"humor": "0", "lang": "en"}
    page.get_by_role("button", name="Back").click()
    expect(page.get_by_role("radio", name="9")).to_be_checked()


def test_every_control_has_a_name_and_the_colours_contrast(
    rated: tuple[Study, str], open_page: Callable[..., Page]
) -> None:
    _, url = rated
    for scheme in ("light", "dark"):
        page = open_page(url, color_scheme=scheme)
        expect(page.locator("fieldset")).to_have_count(len(SCHEMA))
        for control in page.locator("input, button, progress").all():
            assert control.evaluate("n => n.labels?.[0]?.innerText.trim() || n.innerText.trim() || n.ariaLabel")
        for selector in ("h1", ".said", ".role", ".about", "#count", "footer p", "button:enabled", ".levels span"):
            assert contrast(page, selector) >= 4.5, (scheme, selector)
        page.get_by_role("group", name="humor").get_by_role("radio", name="2").check()
        expect(page.locator(".levels input:checked + span")).to_have_count(1)
        assert contrast(page, ".levels input:checked + span") >= 4.5
        page.get_by_role("radio", name="9").focus()
        assert page.evaluate("document.activeElement.closest('fieldset').classList.contains('now')")
        page.keyboard.press("Tab")
        outline = "document.activeElement.nextElementSibling ?? document.activeElement"
        assert page.evaluate(f"getComputedStyle({outline}).outlineStyle") == "solid"


def contrast(page: Page, selector: str) -> float:
    """Contrast of an element's text with what lies behind it (WCAG 2, relative luminance)."""
    colours = page.locator(selector).first.evaluate(
        """node => {
          const clear = (colour) => /, 0\\)$/.test(colour) || colour === 'transparent';
          let behind = node;
          while (behind && clear(getComputedStyle(behind).backgroundColor)) behind = behind.parentElement;
          return [getComputedStyle(node).color, getComputedStyle(behind ?? document.body).backgroundColor];
        }"""
    )

    def luminance(colour: str) -> float:
        channels = [int(x) / 255 for x in re.findall(r"\d+", colour)[:3]]
        linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
        return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]

    light, dark = sorted((luminance(colour) for colour in colours), reverse=True)
    return (light + 0.05) / (dark + 0.05)


def test_labels_filled_in_count_once_somebody_goes_on(tmp_path: Path, open_page: Callable[..., Page]) -> None:
    path = tmp_path / "chats.jsonl"
    write_conversations(path, [two_turns(f"c{i}", labelled=True) for i in range(2)], SCHEMA)
    items = rated_turns(path, "last", None, 0, prefill=SCHEMA)
    study = create_study(tmp_path / "study", items, question="How?", schema=SCHEMA, systems=[], seed=0)
    invite(study, ["ana"])
    labels = {name: str(value) for name, value in (two_turns("c0", labelled=True).messages[4].attributes or {}).items()}
    first = SCHEMA.attributes[0]
    other = next(level for level in first.levels if str(level) != labels[first.name])
    with serving(study) as (_, url):
        page = open_page(f"{url}/#{link(study, 'ana')}")
        ready(page, "0 of 2 done")
        for name, value in labels.items():
            expect(page.locator(f'input[name="{name}"][value="{value}"]')).to_be_checked()
        assert read_answers(study) == [], "what is filled in is no rating yet"
        page.locator("#next").click()
        ready(page, "1 of 2 done")
        page.locator(f'input[name="{first.name}"][value="{other}"]').check()
        page.locator("#next").click()
        ready(page, "2 of 2 done")
    said: dict[int, dict[str, str]] = {}
    for answer in read_answers(study):
        if answer.attribute:
            said.setdefault(answer.item, {})[answer.attribute] = answer.value
    confirmed, corrected = (said[item] for item in order(0, "ana", 2))
    assert confirmed == labels
    assert corrected == {**labels, first.name: str(other)}

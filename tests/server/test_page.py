"""The page of `steerlm serve` in a real browser: chromium, headless, against a real server with a tiny model."""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright

from steerlm.conversation import Message
from steerlm.generation.demonstrations import Demonstration, Demonstrations
from steerlm.server.gate import OPEN_ROUTES
from steerlm.server.page import PAGE_ROUTES
from steerlm.server.proposing import fit_proposer
from tests.server.running import Running, running, tiny_service

expect.set_options(timeout=60_000)  # a machine may be busy; what is right is there at once

PHONE = {"width": 360, "height": 740}
KEYS = {"team": "team-key-0123456789"}
POLICY: dict[str, Any] = {
    "attributes": {"toxicity": {"fixed": 0}, "verbosity": {"minimum": 1, "maximum": 3}, "lang": {"hidden": True}},
    "presets": {"pirate": {"description": "A pirate.", "attributes": {"humor": 4, "verbosity": 4}}},
    "limits": {"default_new_tokens": 48},
}
NASTY = "<script>window.hacked = 1</script><img src=x onerror='window.hacked = 1'></div> &lt;b&gt; \u202e"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    chromium = shutil.which("chromium")
    if chromium is None:
        pytest.skip("no chromium on this machine")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def locked() -> Iterator[Running]:
    with running(tiny_service(POLICY)) as started:
        yield started


@pytest.fixture
def open_page(browser: Browser) -> Iterator[Callable[..., Page]]:
    """Open a page in a context of its own; whatever goes wrong inside it fails the test."""
    contexts, problems = [], []

    def open_(url: str, ready: bool = True, **options: Any) -> Page:
        context = browser.new_context(**options)
        context.set_default_timeout(60_000)
        contexts.append(context)
        # the seeds of answers are drawn there; some random seeds give an empty answer, which has no scores
        context.add_init_script("let drawn = 0; crypto.getRandomValues = (array) => array.fill(++drawn)")
        page = context.new_page()
        page.on("pageerror", lambda error: problems.append(str(error)))
        page.on("dialog", lambda dialog: problems.append(f"dialog {dialog.message}"))
        page.on("console", lambda m: problems.append(m.text) if "Failed to load" not in m.text else None)
        page.goto(url)
        if ready:
            page.wait_for_selector("body[data-ready]")
        return page

    yield open_
    for context in contexts:
        context.close()
    assert problems == []


def asked(page: Page, question: str = "Hi", num: int = 1, button: str = "Ask") -> list[dict[str, Any]]:
    """Ask, wait for the answers, and return the bodies of the requests."""
    bodies: list[dict[str, Any]] = []

    def keep(request: Any) -> None:
        if request.url.endswith("/chat/completions"):
            bodies.append(request.post_data_json)

    page.on("request", keep)
    if button == "Ask":
        page.get_by_label("Question", exact=True).fill(question)
    page.get_by_role("button", name=button, exact=button == "Ask").click()
    expect(page.locator("#ask")).to_be_visible()
    expect(page.locator("#status")).to_have_text("The answer is complete.")
    page.remove_listener("request", keep)
    assert len(bodies) == num
    return bodies


def stays_in_width(page: Page) -> bool:
    return bool(page.evaluate("document.documentElement.scrollWidth <= innerWidth"))


def test_files_are_served_with_a_strict_policy(locked: Running) -> None:
    for route in PAGE_ROUTES:
        reply = httpx.get(locked.url + route)
        assert reply.status_code == 200
        policy = reply.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'")
        assert "unsafe" not in policy
        if "/vendor/" in route:
            continue  # a parser that makes no markup; the policy holds for it too
        assert not re.search(r"https?://(?!www\.w3\.org/2000/svg)|innerHTML|insertAdjacent|document\.write", reply.text)
    assert not any(route in json.dumps(locked.app.openapi()) for route in PAGE_ROUTES - {"/"})
    for path in ("/page/", "/page/../page.py", "/page/%2e%2e/page.py", "/page/none.js"):
        assert httpx.get(locked.url + path).status_code == 404


def test_text_cannot_become_markup_even_by_mistake(locked: Running, browser: Browser) -> None:
    page = browser.new_page()
    page.goto(locked.url)
    mistakes = (
        "document.body.innerHTML = '<b>x</b>'",
        "document.body.insertAdjacentHTML('beforeend', '<b>x</b>')",
        "document.write('<b>x</b>')",
    )
    for mistake in mistakes:
        raised = page.evaluate(f"() => {{ try {{ {mistake}; return null; }} catch (error) {{ return error.name; }} }}")
        assert raised == "TypeError", mistake
    for outside in ("https://example.com/", "http://127.0.0.1:9/"):
        blocked = """url => new Promise(done => {
          document.addEventListener('securitypolicyviolation', event => done(event.effectiveDirective));
          fetch(url, { mode: 'no-cors' }).then(() => done('sent'), () => setTimeout(() => done('not blocked'), 500));
        })"""
        assert page.evaluate(blocked, outside) == "connect-src"
    page.close()


def test_only_the_page_and_health_are_open() -> None:
    # the page's files hold no data; without them a visitor could not be asked for the key
    assert PAGE_ROUTES | {"/health"} == OPEN_ROUTES
    with running(tiny_service(key_names=list(KEYS)), KEYS) as server:
        for path in ("/v1/attributes", "/v1/models", "/metrics", "/openapi.json", "/page/", "/page"):
            assert httpx.get(server.url + path).status_code == 401
        for path in OPEN_ROUTES:
            assert httpx.get(server.url + path).status_code == 200


def test_sliders_change_the_request(locked: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(locked.url + "/#temperature=0")  # greedy: a sampled answer may end at once
    [body] = asked(page)
    assert body["steer"] == {
        "attributes": {"quality": 4, "humor": 0, "verbosity": 2},
        "return_scores": True,
    }
    humor = page.get_by_role("slider", name="humor")
    humor.focus()
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    expect(page.locator("[data-name=humor] .track.a output")).to_have_text("3")
    [body] = asked(page, "And now?")
    assert body["steer"]["attributes"] == {"quality": 4, "humor": 3, "verbosity": 2}
    # the conversation goes along, with what the earlier answer was written with
    assert [message["role"] for message in body["messages"]] == ["user", "assistant", "user"]
    assert body["messages"][1]["attributes"] == {"quality": 4, "toxicity": 0, "humor": 0, "verbosity": 2}
    assert body["messages"][1]["content"] == page.locator(".answer .said").first.get_attribute("data-text")
    answer = page.locator(".answer").last
    expect(answer.get_by_role("list", name="In force")).to_contain_text("humor 3")
    expect(answer.get_by_role("img")).to_have_attribute("aria-label", re.compile("humor [0-9.]+, asked for 3"))
    page.get_by_text("Decoding", exact=True).click()
    page.get_by_role("slider", name="strength").fill("2.5")
    page.get_by_role("slider", name="best of").fill("3")
    [again] = asked(page, button="Ask again")
    assert again["messages"] == body["messages"]
    assert (again["steer"]["guidance"], again["steer"]["best_of"]) == (2.5, 3)
    expect(page.locator(".turn").last.locator(".answer")).to_have_count(2)


def test_locks_and_presets(locked: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(locked.url)
    toxicity = page.get_by_role("slider", name="toxicity")
    expect(toxicity).to_be_disabled()
    expect(toxicity).to_have_accessible_description("Fixed at 0 by the operator.")
    verbosity = page.get_by_role("slider", name="verbosity")
    expect(verbosity).to_have_attribute("max", "3")
    expect(verbosity).to_have_accessible_description("The operator allows 1 to 3.")
    expect(page.get_by_role("slider", name="quality")).to_have_accessible_description("How good.")
    assert "lang" not in page.inner_text("body").split()
    pirate = page.get_by_role("button", name="pirate")
    pirate.click()
    expect(pirate).to_have_attribute("aria-pressed", "true")
    [body] = asked(page)
    assert body["steer"]["preset"] == "pirate"
    assert body["steer"]["attributes"] == {"quality": 4, "humor": 4, "verbosity": 3}
    page.get_by_role("button", name="Defaults").click()
    expect(pirate).to_have_attribute("aria-pressed", "false")
    assert "preset" not in asked(page)[0]["steer"]


def test_comparison_and_sweep(locked: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(locked.url)
    page.get_by_role("radio", name="Compare").check()
    page.get_by_role("slider", name="humor, setting B").fill("4")
    bodies = asked(page, num=2)
    assert [body["steer"]["attributes"]["humor"] for body in bodies] == [0, 4]
    assert bodies[0]["seed"] == bodies[1]["seed"]
    for letter, level in (("A", 0), ("B", 4)):
        card = page.get_by_role("article", name=letter, exact=True)
        expect(card.locator(".chips .strong")).to_have_text([f"humor {level}"])
        expect(card.get_by_role("img")).to_be_visible()
    page.get_by_role("radio", name="Sweep").check()
    page.locator("#dial").select_option("verbosity")
    bodies = asked(page, num=3)
    assert sorted(body["steer"]["attributes"]["verbosity"] for body in bodies) == [1, 2, 3]
    expect(page.locator("#sweep .answer h3")).to_have_text(["verbosity 1", "verbosity 2", "verbosity 3"])
    obtained = page.get_by_role("img", name="Obtained verbosity")
    expect(obtained).to_have_attribute("aria-label", "Obtained verbosity: 1.0 at 1, 1.0 at 2, 1.0 at 3")
    # the chat's conversation is its own
    page.get_by_role("radio", name="Chat").check()
    assert len(asked(page)[0]["messages"]) == 1


def test_a_link_restores_the_settings(locked: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(locked.url)
    page.get_by_role("radio", name="Compare").check()
    page.get_by_role("slider", name="humor, setting A").fill("1")
    page.get_by_role("slider", name="quality, setting B").fill("2")
    page.get_by_text("Decoding", exact=True).click()
    page.get_by_role("slider", name="temperature").fill("0.2")
    other = open_page(page.url)
    expect(other.get_by_role("radio", name="Compare")).to_be_checked()
    bodies = asked(other, num=2)
    assert [body["steer"]["attributes"] for body in bodies] == [
        {"quality": 4, "humor": 1, "verbosity": 2},
        {"quality": 2, "humor": 0, "verbosity": 2},
    ]
    assert bodies[0]["temperature"] == 0.2
    # what a link may not say is left out or moved to what is allowed
    forged = (
        "#view=compare&a=humor:99,toxicity:4,verbosity:0,lang:de,constructor:1,quality:<b>&b=__proto__:1&temperature=x"
    )
    page = open_page(locked.url + "/" + forged)
    assert [body["steer"]["attributes"] for body in asked(page, num=2)] == [
        {"quality": 4, "humor": 4, "verbosity": 1},
        {"quality": 4, "humor": 0, "verbosity": 2},
    ]


@pytest.fixture
def slow(locked: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let every step of the model take its time."""
    model = locked.engine._model
    forward = model.forward

    def slowly(*arguments: Any, **named: Any) -> Any:
        time.sleep(0.03)
        return forward(*arguments, **named)

    monkeypatch.setattr(model, "forward", slowly)


@pytest.mark.usefixtures("slow")
def test_text_comes_as_it_is_written_and_stops(locked: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(locked.url + "/#temperature=0")  # greedy: a sampled answer may end at once
    page.evaluate(
        """() => { window.lengths = new Set(); new MutationObserver(() => {
          const said = document.querySelector('.said'); if (said) lengths.add(said.textContent.length);
        }).observe(document.body, { subtree: true, childList: true, characterData: true }); }"""
    )
    page.get_by_label("Question", exact=True).fill("Hi")
    page.keyboard.press("Enter")
    deadline = time.monotonic() + 60
    while page.evaluate("lengths.size") < 4:
        assert time.monotonic() < deadline, "the text comes all at once"
        time.sleep(0.02)
    assert page.locator("#stop").is_visible()
    page.keyboard.press("Escape")
    expect(page.locator(".note")).to_have_text("Stopped.")
    expect(page.locator("#status")).to_have_text("Stopped.")
    expect(page.locator("#ask")).to_be_visible()
    deadline = time.monotonic() + 60
    while locked.local.scheduler.num_running:
        assert time.monotonic() < deadline, "the server goes on for nobody"
        time.sleep(0.02)


def test_markup_stays_text(locked: Running, open_page: Callable[..., Page]) -> None:
    def nasty(route: Route) -> None:
        steer = {"attributes": {NASTY: NASTY}, "guidance": {}, "preset": None, "warnings": [{"message": NASTY}]}
        scores = {"humor": {"mean": 2.0, "std": 0.0}, NASTY: {"mean": 1.0, "std": 0.0}}
        chunks = [
            {"choices": [{"delta": {"content": ""}}], "steer": steer},
            {"choices": [{"delta": {"content": NASTY}, "finish_reason": "stop", "steer": {"scores": scores}}]},
        ]
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        route.fulfill(body=body, content_type="text/event-stream")

    page = open_page(locked.url, viewport=PHONE)
    page.route("**/v1/chat/completions", nasty)
    asked(page, NASTY)
    assert page.locator(".said").get_attribute("data-text") == NASTY
    assert "<script>window.hacked = 1</script><img src=x" in page.locator(".said").inner_text()
    assert page.locator(".asked-text").text_content() == NASTY
    assert page.locator(".note.warn").text_content() == NASTY
    assert page.locator("main script, main img").count() == 0
    assert page.evaluate("window.hacked") is None


def test_the_key_is_asked_for(open_page: Callable[..., Page]) -> None:
    with running(tiny_service(POLICY, list(KEYS)), KEYS) as server:
        page = open_page(server.url, ready=False)
        page.get_by_label("Key", exact=True).fill("wrong")
        page.get_by_role("button", name="Open").click()
        expect(page.locator("#key-about")).to_contain_text("does not know this key")
        page.get_by_label("Key", exact=True).fill(KEYS["team"])
        page.keyboard.press("Enter")
        asked(page)
        # the key and what was said stay in this tab
        assert page.evaluate("[sessionStorage.length, localStorage.length, document.cookie]") == [2, 0, ""]
        assert KEYS["team"] not in page.url
        page.reload()
        page.wait_for_selector("body[data-ready]")
        page.get_by_role("button", name="Forget key").click()
        expect(page.get_by_role("dialog", name="API key")).to_be_visible()
        assert page.evaluate("sessionStorage.length") == 0
        page.close()


def test_copy_and_the_keyboard(locked: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(locked.url, permissions=["clipboard-read", "clipboard-write"])
    page.keyboard.press("/")
    page.keyboard.type("Why")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("not/?")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("The answer is complete.")
    assert page.locator(".asked-text").text_content() == "Why\nnot/?"
    page.get_by_role("button", name="Copy", exact=True).click()
    expect(page.locator("#status")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.locator(".said").get_attribute("data-text")
    page.get_by_role("button", name="Copy link").click()
    expect(page.locator("#share")).to_have_text("Copied")
    assert page.evaluate("navigator.clipboard.readText()") == page.url
    assert "humor:0" in page.url
    page.get_by_role("radio", name="Chat").focus()
    page.keyboard.press("ArrowRight")
    expect(page.get_by_role("radio", name="Compare")).to_be_checked()
    page.get_by_role("radio", name="Chat").check()
    page.get_by_role("button", name="New chat").click()
    expect(page.get_by_text("Talk to the model")).to_be_visible()
    assert len(asked(page)[0]["messages"]) == 1


def test_errors_are_told(locked: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(locked.url)
    asked(page, "x" * 600)
    expect(page.locator(".note.warn")).to_contain_text("context")
    # what was not answered is no part of the conversation
    assert len(asked(page, "Hi")[0]["messages"]) == 1


MARKDOWN = """# Bread

Weigh **the flour**, *slowly*:

1. mix
2. `knead`

| step | minutes |
|---|---|
| rest | 60 |

```python
print("<b>done</b>")
```

[recipe](https://example.com/bread) [no](javascript:alert(1)) ![picture](https://example.com/x.png)
"""


def streamed(*contents: str) -> str:
    steer = {"attributes": {"humor": 0}, "guidance": {}, "preset": None, "warnings": []}
    chunks: list[dict[str, Any]] = [{"choices": [{"delta": {"content": ""}}], "steer": steer}]
    chunks += [{"choices": [{"delta": {"content": content}}]} for content in contents]
    return ": keep-alive\r\n\r\n" + "".join(f"data: {json.dumps(c)}\n\n" for c in chunks) + "data: [DONE]\n\n"


def test_markdown_becomes_elements_and_nothing_else(locked: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(locked.url)
    body = streamed(MARKDOWN[:50], MARKDOWN[50:])
    page.route("**/v1/chat/completions", lambda r: r.fulfill(body=body, content_type="text/event-stream"))
    asked(page)
    said = page.locator(".said")
    for selector, text in (
        ("h1", "Bread"), ("strong", "the flour"), ("em", "slowly"), ("ol > li >> nth=1", "knead"),
        ("td >> nth=1", "60"),
        ("pre code", 'print("<b>done</b>")\n'),
    ):  # fmt: skip
        assert said.locator(selector).text_content() == text
    links = said.locator("a").evaluate_all("nodes => nodes.map((n) => [n.href, n.rel, n.target])")
    assert links == [["https://example.com/bread", "noopener noreferrer nofollow", "_blank"]]
    assert said.locator("img, script, b").count() == 0
    assert "[picture]" in said.inner_text()


def test_a_full_context_drops_the_oldest_exchanges_and_says_so(locked: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(locked.url)
    sent: list[list[str]] = []

    def narrow(route: Route) -> None:
        """A model that reads three exchanges."""
        messages = route.request.post_data_json["messages"]
        if len(messages) > 6:
            error = {"message": "the conversation is longer than the context", "code": "context_length_exceeded"}
            route.fulfill(status=400, json={"error": error})
            return
        sent.append([message["content"] for message in messages])
        route.fulfill(body=streamed(f"answer {len(sent)}"), content_type="text/event-stream")

    page.route("**/v1/chat/completions", narrow)
    page.locator("#system-section > summary").click()
    page.locator("#system").fill("Be brief.")
    for number in range(1, 5):
        page.get_by_label("Question", exact=True).fill(f"question {number}")
        page.get_by_role("button", name="Ask", exact=True).click()
        expect(page.locator(".said").last).to_have_text(f"answer {number}")
        expect(page.locator("#ask")).to_be_visible()
    assert sent[-1] == ["Be brief.", "question 2", "answer 2", "question 3", "answer 3", "question 4"]
    expect(page.locator(".turn").last.locator(".note")).to_contain_text("The oldest exchange was left out")


def test_conversations_survive_a_reload_and_questions_are_edited(
    locked: Running, open_page: Callable[..., Page]
) -> None:
    page = open_page(locked.url)
    for question in ("first", "second"):
        asked(page, question)
    page.reload()
    page.wait_for_selector("body[data-ready]")
    expect(page.locator(".turn")).to_have_count(0)
    page.locator("#conversations > summary").click()
    page.get_by_role("button", name="first", exact=True).click()
    expect(page.locator(".asked-text")).to_have_text(["first", "second"])
    page.locator(".turn").first.hover()
    page.get_by_role("button", name="Edit").first.click()
    expect(page.get_by_label("Question", exact=True)).to_have_value("first")
    [body] = asked(page, "first, but better")
    assert [message["content"] for message in body["messages"]] == ["first, but better"]
    page.get_by_role("button", name="Delete").click()
    expect(page.locator("#conversations")).to_be_hidden()
    assert page.evaluate("localStorage.length") == 0


def test_a_visitor_sees_a_dial_at_work_in_four_actions(locked: Running, open_page: Callable[..., Page]) -> None:
    page = open_page(locked.url, viewport={"width": 1280, "height": 800})  # 1: open
    page.get_by_role("button", name="How do I bake bread?").click()  # 2: an example
    expect(page.locator("#status")).to_have_text("The answer is complete.")
    humor = page.get_by_role("slider", name="humor")
    again = page.get_by_role("button", name="Ask again")
    for control in (humor, again, page.locator(".said").first):
        box = control.bounding_box()
        assert box is not None
        assert 0 <= box["y"] < 800
    humor.fill("4")  # 3: a dial
    again.click()  # 4: again
    expect(page.locator(".answer")).to_have_count(2)
    expect(page.locator(".answer").last.locator(".chips .strong")).to_have_text("humor 4")


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_a_phone_and_contrast(locked: Running, open_page: Callable[..., Page], scheme: str) -> None:
    page = open_page(f"{locked.url}/#view=compare&b=humor:4", viewport=PHONE, color_scheme=scheme)
    assert stays_in_width(page)
    expect(page.locator("#dials")).to_be_hidden()
    page.locator("#panel > summary").click()
    expect(page.get_by_role("slider", name="humor, setting B")).to_be_visible()
    page.get_by_text("Decoding", exact=True).click()
    assert stays_in_width(page)
    for control in page.locator("input, select, textarea, button").all():
        name = "n => n.ariaLabel || n.labels?.[0]?.textContent.trim() || n.textContent.trim()"
        assert control.evaluate(name)
    for selector in (".dial h3", ".dial .about", ".scale span", ".letter.a", ".letter.b", "#presets button"):
        assert contrast(page, selector) >= 4.5, selector
    asked(page, "word " * 30 + "x" * 80, num=2)
    assert stays_in_width(page)
    for selector in (".said", ".chips li", ".answer.a h3", ".answer.b h3", ".answer.b .strong", "figcaption", ".main"):
        assert contrast(page, selector) >= 4.5, selector
    page.get_by_role("radio", name="Sweep").check()
    assert stays_in_width(page)


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


@pytest.fixture(scope="module")
def taught() -> Iterator[Running]:
    """A server that knows training answers: funny ones to jokes, dry ones to facts."""
    rows = []
    for number in range(30):
        for kind, humor in (("joke", 4), ("fact", 0)):
            labels = {"quality": 4, "toxicity": 0, "humor": humor, "verbosity": 1, "lang": "en"}
            rows.append(
                Demonstration(f"A {kind} of {number}?", Message("assistant", f"{kind} {number}.", attributes=labels))
            )
    service = tiny_service({"limits": {"default_new_tokens": 16}}, context=1024)
    service.demonstrations = Demonstrations(rows, service.schema)
    service.proposer = fit_proposer(service.demonstrations)
    with running(service) as started:
        yield started


def test_auto_turns_the_dials_that_nobody_turned(taught: Running, locked: Running, open_page: Any) -> None:
    page = open_page(taught.url)
    page.get_by_label("Auto: dials that you do not turn follow from the question").check()
    humor, verbosity = page.locator("#a-humor"), page.locator("#a-verbosity")
    [body] = asked(page, "A joke of 44?")
    assert (body["steer"]["auto"], body["steer"]["attributes"]) == (True, {})
    expect(humor).to_have_value("4")
    expect(page.locator(".track.a.follows")).to_have_count(5)
    verbosity.fill("3")
    expect(page.locator(".track.a.follows")).to_have_count(4)
    [body] = asked(page, "A fact of 44?")
    assert body["steer"]["attributes"] == {"verbosity": 3}
    expect(humor).to_have_value("0")
    expect(verbosity).to_have_value("3")
    assert "auto=verbosity" in page.url
    page.get_by_text("Decoding").click()
    page.locator("#demonstrations").fill("2")
    [body] = asked(page, "A fact of 55?")
    assert body["steer"]["demonstrations"] == 2
    again = open_page(page.url)
    expect(again.locator("#auto")).to_be_checked()
    expect(again.locator(".track.a.follows")).to_have_count(4)
    assert stays_in_width(page)
    plain = open_page(locked.url + "#auto=humor&demonstrations=3")
    expect(plain.locator("#auto-row")).to_be_hidden()
    [body] = asked(plain)
    assert body["steer"].keys() <= {"attributes", "return_scores"}, "what the server has not is not asked for"

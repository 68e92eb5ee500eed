"""Take the pictures of the page for the docs: desktop and phone, light and dark.

steerlm serve runs/playground/bootstrap/model --attribute-model runs/playground/train_attribute_model/model
python docs/screenshots.py http://127.0.0.1:8000
"""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from playwright.sync_api import Page, expect, sync_playwright

FIGURES = Path(__file__).resolve().parent / "figures"
DESK, PHONE = {"width": 1280, "height": 800}, {"width": 390, "height": 800}
QUESTION = "Why do people love riding a bicycle?"


def ask(page: Page) -> None:
    """Ask the question and wait for the answers."""
    page.get_by_label("Question", exact=True).fill(QUESTION)
    page.get_by_role("button", name="Ask", exact=True).click()
    expect(page.locator("#status")).to_have_text("The answer is complete.", timeout=60_000)
    page.wait_for_timeout(300)


def main(url: str) -> None:
    """Write the pictures."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, viewport, scheme, settings in (
            ("serve", DESK, "light", "view=compare&b=humor:4"),
            ("serve_dark", DESK, "dark", "view=chat&a=humor:4"),
            ("serve_sweep", DESK, "light", "view=sweep&dial=humor"),
            ("serve_phone", PHONE, "light", "view=compare&b=humor:4"),
            ("serve_phone_dark", PHONE, "dark", "view=chat&a=humor:4"),
        ):
            page = browser.new_page(viewport=viewport, color_scheme=scheme)
            page.goto(f"{url}/#{settings}&temperature=0")
            page.wait_for_selector("body[data-ready]")
            ask(page)
            page.evaluate("scrollTo(0, 0)")
            page.screenshot(path=FIGURES / f"{name}.png")
            page.close()
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1])

"""The web page of `steerlm serve`: a few static files.

They hold no data and need no key: what they show comes from the API, which does. The Content-Security-Policy allows
this page's own scripts, style and requests and nothing else, and forbids turning text into markup at all (Trusted
Types), so that nothing a model wrote can become part of the page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from fastapi import FastAPI
from starlette.requests import Request
from starlette.responses import Response

_FOLDER = Path(__file__).parent / "page"
_FILES = {
    "/": ("index.html", "text/html"),
    "/page/style.css": ("style.css", "text/css"),
    "/page/app.js": ("app.js", "text/javascript"),
    "/page/api.js": ("api.js", "text/javascript"),
    "/page/dials.js": ("dials.js", "text/javascript"),
    "/page/charts.js": ("charts.js", "text/javascript"),
    "/page/answers.js": ("answers.js", "text/javascript"),
    "/page/settings.js": ("settings.js", "text/javascript"),
    "/page/conversations.js": ("conversations.js", "text/javascript"),
    "/page/markdown.js": ("markdown.js", "text/javascript"),
    "/page/vendor/markdown-it.js": ("vendor/markdown-it.js", "text/javascript"),
}
PAGE_ROUTES = frozenset(_FILES)
"""Routes of the page; without them nobody could be asked for the key."""
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "Cache-Control": "no-cache",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
}


def add_page(app: FastAPI) -> None:
    """Serve the page's files."""
    for route, (name, media_type) in _FILES.items():
        app.add_route(route, _endpoint((_FOLDER / name).read_bytes(), media_type), include_in_schema=False)


def _endpoint(content: bytes, media_type: str) -> Callable[[Request], Awaitable[Response]]:
    async def file(request: Request) -> Response:
        return Response(content, headers=_HEADERS, media_type=f"{media_type}; charset=utf-8")

    return file

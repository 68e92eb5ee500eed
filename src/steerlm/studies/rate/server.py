"""The web application of a rating study: one static page and three requests.

The invitation link carries the token behind `#`, which a browser sends to nobody; the page puts it into the
Authorization header. So it stands in no log and no referrer, and no other site can act in an annotator's name.
The Content-Security-Policy allows this page's own script and style and nothing else, and forbids turning text into
markup at all (Trusted Types), so that nothing a model wrote can become part of the page.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Annotated

from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict, Field, StrictInt, StrictStr

from steerlm.errors import UserError
from steerlm.studies.rate.items import order, show, swapped
from steerlm.studies.rate.store import Rater, Study, authenticate, finished, given, read_answers, read_item, record

MAX_BODY_BYTES = 4096
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self'; img-src data:; base-uri 'none'; "
        "form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; trusted-types 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-store",
}
_PAGE = Path(__file__).parent / "page"
_FILES = {
    "/": ("rate.html", "text/html"),
    "/rate.js": ("rate.js", "text/javascript"),
    "/rate.css": ("rate.css", "text/css"),
}
_MIRRORED = {"first": "second", "second": "first"}

router = APIRouter()


class Given(BaseModel):
    """What the page sends: a rating of an attribute, or (without one) the verdict of a comparison or `skip`.

    `first` and `second` are the answers as shown.
    """

    model_config = ConfigDict(extra="forbid")

    attribute: str = Field(default="", max_length=200)
    value: StrictInt | StrictStr


def create_app(study: Study) -> FastAPI:
    """Return the application that serves one study."""
    # FastAPI's own documentation pages load scripts from elsewhere, which the policy forbids
    app = FastAPI(title="steerlm rate", docs_url=None, redoc_url=None, openapi_url=None)
    app.state.study = study
    app.include_router(router)
    app.middleware("http")(_guard)
    app.add_exception_handler(UserError, _user_error)
    return app


async def _guard(request: Request, call_next: Callable[[Request], Awaitable[Response]]) -> Response:
    """Refuse bodies that no page of ours sends, and put the security headers on every response."""
    length = request.headers.get("content-length", "0")
    if "transfer-encoding" in request.headers or not length.isdecimal() or int(length) > MAX_BODY_BYTES:
        response: Response = JSONResponse({"detail": f"a body of at most {MAX_BODY_BYTES} bytes, please"}, 413)
    else:
        response = await call_next(request)
    response.headers.update(HEADERS)
    return response


def _user_error(_: Request, error: Exception) -> JSONResponse:
    return JSONResponse({"detail": str(error)}, 422)


def _study(request: Request) -> Study:
    study = request.app.state.study
    assert isinstance(study, Study)
    return study


StudyOf = Annotated[Study, Depends(_study)]


def _annotator(study: StudyOf, authorization: Annotated[str, Header()] = "") -> Rater:
    scheme, _, token = authorization.partition(" ")
    annotator = authenticate(study, token) if scheme.lower() == "bearer" else None
    if annotator is None:
        raise HTTPException(401, "this invitation link is not valid", {"WWW-Authenticate": "Bearer"})
    return annotator


AnnotatorOf = Annotated[Rater, Depends(_annotator)]


def _file(request: Request) -> Response:
    name, media_type = _FILES[request.url.path]
    return Response((_PAGE / name).read_bytes(), media_type=media_type)


for _path in _FILES:
    router.add_api_route(_path, _file, methods=["GET"])


@router.get("/api/study")
def _get_study(study: StudyOf, annotator: AnnotatorOf) -> dict[str, object]:
    schema = study.schema.attributes if study.schema is not None else ()
    return {
        "kind": study.kind,
        "question": study.question,
        "annotator": annotator.name,
        "attributes": [{"name": a.name, "description": a.description, "levels": list(a.levels)} for a in schema],
        **_progress(study, annotator),
    }


@router.get("/api/items/{position}")
def _get_item(study: StudyOf, annotator: AnnotatorOf, position: int) -> dict[str, object]:
    item = _item_at(study, annotator, position)
    side = swapped(study.seed, annotator.name, item)
    values = given(read_answers(study, annotator), item)
    return {
        "position": position,
        "given": {name: _as_shown(value, side) for name, value in values.items()},
        **show(read_item(study, item), side, study.schema),
    }


@router.put("/api/items/{position}")
def _put_item(study: StudyOf, annotator: AnnotatorOf, position: int, body: Given) -> dict[str, int]:
    item = _item_at(study, annotator, position)
    side = swapped(study.seed, annotator.name, item)
    record(study, annotator, item, _values(study, body, side), side)
    return _progress(study, annotator)


def _item_at(study: Study, annotator: Rater, position: int) -> int:
    if not 0 <= position < study.num_items:
        raise HTTPException(404, f"there is no item {position}; items are 0 to {study.num_items - 1}")
    return order(study.seed, annotator.name, study.num_items)[position]


def _values(study: Study, body: Given, side: bool) -> dict[str, str]:
    if body.attribute == "" and body.value == "skip":
        return {"": "skip"}
    if study.schema is not None:
        # a rating takes an earlier skip back
        return {body.attribute: str(study.schema[body.attribute].check(body.value)), "": ""}
    if body.attribute or body.value not in ("first", "second", "tie"):
        raise UserError(f"{body.attribute or 'verdict'}: {body.value!r} is not one of first, second, tie, skip")
    return {"": _as_shown(str(body.value), side)}


def _as_shown(value: str, side: bool) -> str:
    """Translate a verdict between the item's order and the order shown (the same either way)."""
    return _MIRRORED.get(value, value) if side else value


def _progress(study: Study, annotator: Rater) -> dict[str, int]:
    """How many items are done, and the position of the first that is not (total where none is left)."""
    done = finished(study, read_answers(study, annotator))
    positions = order(study.seed, annotator.name, study.num_items)
    following = next((p for p, item in enumerate(positions) if item not in done), study.num_items)
    return {"total": study.num_items, "done": len(done), "next": following}

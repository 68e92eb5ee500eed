from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from steerlm.studies.rate.items import order, swapped
from steerlm.studies.rate.server import MAX_BODY_BYTES, create_app
from steerlm.studies.rate.store import Study, annotators, invite, read_answers
from tests.studies.rate.studies import comparison, rating


def client(study: Study, name: str = "ana") -> TestClient:
    token = invite(study, [name])[0].token
    return TestClient(create_app(study), headers={"Authorization": f"Bearer {token}"})


def test_no_link_no_answer(tmp_path: Path) -> None:
    study = comparison(tmp_path)
    token = invite(study, ["ana"])[0].token
    stranger = TestClient(create_app(study))
    for headers in ({}, {"Authorization": "Bearer x"}, {"Authorization": token}, {"Authorization": f"Basic {token}"}):
        for method, path in (("GET", "/api/study"), ("GET", "/api/items/0"), ("PUT", "/api/items/0")):
            response = stranger.request(method, path, headers=headers, json={"value": "tie"})
            assert response.status_code == 401
            assert response.json() == {"detail": "this invitation link is not valid"}
    assert read_answers(study) == []
    assert stranger.get("/api/study", headers={"Authorization": f"Bearer {token}"}).status_code == 200


def test_every_response_carries_the_policy(tmp_path: Path) -> None:
    study = comparison(tmp_path)
    api = client(study)
    for response in (
        api.get("/"),
        api.get("/rate.js"),
        api.get("/rate.css"),
        api.get("/api/study"),
        api.get("/nothing"),
        api.put("/api/items/0", content=b"x" * (MAX_BODY_BYTES + 1)),
    ):
        policy = response.headers["content-security-policy"]
        assert policy.startswith("default-src 'none'; script-src 'self'; style-src 'self'; connect-src 'self';")
        assert "unsafe" not in policy
        assert "require-trusted-types-for 'script'; trusted-types 'none'" in policy
        assert response.headers["x-content-type-options"] == "nosniff"
        assert response.headers["cache-control"] == "no-store"
    assert api.get("/").headers["content-type"].startswith("text/html")
    for path in ("/docs", "/redoc", "/openapi.json", "/rate.html", "/../store.py"):
        assert api.get(path).status_code == 404


def test_the_page_loads_nothing_from_elsewhere(tmp_path: Path) -> None:
    api = client(comparison(tmp_path))
    for path in ("/", "/rate.js", "/rate.css"):
        text = api.get(path).text
        for word in ("http:", "https:", "//cdn", "@import", "innerHTML", "insertAdjacentHTML", "eval(", "style="):
            assert word not in text, (path, word)


def test_a_comparison_is_blind_and_goes_on_where_one_was(tmp_path: Path) -> None:
    study = comparison(tmp_path, num_prompts=20)
    api = client(study)
    start = api.get("/api/study").json()
    assert (start["kind"], start["question"], start["annotator"]) == ("comparison", "Which?", "ana")
    assert (start["total"], start["done"], start["next"], start["attributes"]) == (20, 0, 0, [])
    sides = set()
    for position, item in enumerate(order(0, "ana", 20)):
        shown = api.get(f"/api/items/{position}").json()
        assert shown.keys() == {"position", "given", "context", "answers"}
        assert shown["context"] == [{"role": "user", "content": f"How do I bake bread? (p{item})"}]
        said = [answer[0]["content"] for answer in shown["answers"]]
        expected = [f"plain says {item}", f"steered says {item}"]
        assert said == (expected[::-1] if swapped(0, "ana", item) else expected)
        sides.add(swapped(0, "ana", item))
        assert shown == api.get(f"/api/items/{position}").json()  # a reload shows the same
        best = said.index(f"steered says {item}")
        progress = api.put(f"/api/items/{position}", json={"value": ["first", "second"][best]}).json()
        assert progress == {"total": 20, "done": position + 1, "next": position + 1}
        assert api.get(f"/api/items/{position}").json()["given"] == {"": ["first", "second"][best]}
    assert sides == {True, False}
    # `second` is the second system of the study, whatever side it stood on
    assert {(a.value, a.swapped == swapped(0, "ana", a.item)) for a in read_answers(study)} == {("second", True)}


def test_a_change_of_mind_a_tie_and_a_skip(tmp_path: Path) -> None:
    study = comparison(tmp_path)
    api = client(study)
    assert api.put("/api/items/1", json={"value": "tie"}).json() == {"total": 6, "done": 1, "next": 0}
    assert api.put("/api/items/0", json={"value": "skip"}).json() == {"total": 6, "done": 2, "next": 2}
    api.put("/api/items/1", json={"value": "first"})
    assert api.get("/api/items/1").json()["given"] == {"": "first"}
    assert api.get("/api/study").json()["done"] == 2


def test_two_annotators_do_not_see_each_other(tmp_path: Path) -> None:
    study = comparison(tmp_path)
    ana, ben = client(study, "ana"), client(study, "ben")
    for position in range(6):
        ana.put(f"/api/items/{position}", json={"value": "tie"})
    assert ana.get("/api/study").json()["next"] == 6
    assert ben.get("/api/study").json() | {"annotator": ""} == ana.get("/api/study").json() | {
        "annotator": "", "done": 0, "next": 0,
    }  # fmt: skip
    assert ben.get("/api/items/0").json()["given"] == {}
    assert [a.name for a in annotators(study)] == ["ana", "ben"]


def test_ratings_are_checked_against_the_schema(tmp_path: Path) -> None:
    study = rating(tmp_path)
    api = client(study)
    assert api.get("/api/study").json()["attributes"] == [
        {"name": "humor", "description": "How funny it tries to be.", "levels": [0, 1, 2, 3, 4]},
        {"name": "helpfulness", "description": "", "levels": list(range(10))},
        {"name": "lang", "description": "", "levels": ["en", "de"]},
    ]
    put: Callable[[Any], Any] = lambda body: api.put("/api/items/0", json=body)  # noqa: E731
    assert put({"attribute": "humor", "value": 2}).json()["done"] == 0
    assert put({"attribute": "lang", "value": "de"}).json()["done"] == 0
    assert put({"attribute": "helpfulness", "value": 9}).json() == {"total": 6, "done": 1, "next": 1}
    for body, words in (
        ({"attribute": "humor", "value": 5}, "humor: 5 is not an integer from 0 to 4"),
        ({"attribute": "humor", "value": "2"}, "not an integer"),
        ({"attribute": "lang", "value": "fr"}, "not one of en, de"),
        ({"attribute": "humour", "value": 1}, "did you mean 'humor'"),
        ({"value": "tie"}, "unknown attribute ''"),
    ):
        response = put(body)
        assert response.status_code == 422
        assert words in response.json()["detail"]
    assert api.get("/api/items/0").json()["given"] == {"": "", "humor": "2", "helpfulness": "9", "lang": "de"}


def test_rating_takes_a_skip_back(tmp_path: Path) -> None:
    api = client(rating(tmp_path))
    assert api.put("/api/items/0", json={"value": "skip"}).json()["done"] == 1
    assert api.put("/api/items/0", json={"attribute": "humor", "value": 2}).json()["done"] == 0


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[]",
        b'{"value": 1.5}',
        b'{"value": true}',
        b'{"value": null}',
        b'{"value": "first", "annotator": "ben"}',
        b'{"value": "third"}',
        b'{"attribute": "humor", "value": "first"}',
        b'{"value": "' + b"x" * MAX_BODY_BYTES + b'"}',
    ],
)
def test_bad_bodies_write_nothing(tmp_path: Path, body: bytes) -> None:
    study = comparison(tmp_path)
    response = client(study).put("/api/items/0", content=body, headers={"Content-Type": "application/json"})
    assert response.status_code in (413, 422)
    assert read_answers(study) == []


def test_items_that_do_not_exist(tmp_path: Path) -> None:
    api = client(comparison(tmp_path))
    for position in ("-1", "6", "999999999999999999999"):
        assert api.get(f"/api/items/{position}").status_code == 404
        assert api.put(f"/api/items/{position}", json={"value": "tie"}).status_code == 404
    assert api.get("/api/items/x").status_code == 422


def test_a_body_of_unknown_length_is_refused(tmp_path: Path) -> None:
    study = comparison(tmp_path)

    def endless() -> Any:
        yield b'{"value": "tie"}'

    response = client(study).put("/api/items/0", content=endless(), headers={"Content-Type": "application/json"})
    assert response.status_code == 413
    assert read_answers(study) == []

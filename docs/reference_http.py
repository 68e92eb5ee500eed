"""Tables of the HTTP API, from the models of its requests, its routes and its error codes."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

_TYPES = {"integer": "integer", "number": "number", "string": "text", "boolean": "boolean", "null": "null"}


def http_fields(name: str) -> str:
    """Table of the fields of a request or an object in one."""
    from pydantic import BaseModel

    from steerlm.server import protocol, responses

    models: dict[str, type[BaseModel]] = {
        "chat": protocol.ChatRequest, "completions": protocol.CompletionRequest, "score": protocol.ScoreRequest,
        "responses": responses.ResponsesRequest, "message": protocol.ChatMessage, "steer": protocol.Steer,
    }  # fmt: skip
    schema = models[name].model_json_schema()
    required = schema.get("required", ())
    rows = ["| field | type | default | meaning |", "|---|---|---|---|"]
    neutral, idle = [], []
    for field, row in schema["properties"].items():
        if "enum" in row and row["enum"][0] is None:
            values = " or ".join(f"`{json.dumps(value)}`" for value in row["enum"])
            neutral.append(f"`{field}` ({values})")
        elif "description" not in row:
            idle.append(f"`{field}`")
        else:
            default = "required" if field in required else f"`{json.dumps(row.get('default'))}`"
            rows.append(f"| `{field}` | {_type(row)} | {default} | "
                        f"{row['description']} |")  # fmt: skip
    text = "\n".join(rows) + "\n"
    if idle:
        text += f"\nNo matter, whatever they are: {', '.join(idle)}.\n"
    if neutral:
        text += f"\nNot supported, so accepted at these values only: {', '.join(neutral)}.\n"
    return text


def _type(row: Mapping[str, Any]) -> str:
    """Say in words what a JSON schema allows."""
    if "$ref" in row:
        return f"`{row['$ref'].rpartition('/')[2]}`"
    if "anyOf" in row:
        kinds = [_type(option) for option in row["anyOf"] if option != {"type": "null"}]
        return " or ".join(dict.fromkeys(kinds))
    if "enum" in row:
        return ", ".join(f"`{value}`" for value in row["enum"])
    if "const" in row:
        return f"`{row['const']}`"
    if row.get("type") == "array":
        return f"list of {_type(row['items'])}"
    if row.get("type") == "object":
        return "object"
    bounds = [f"from {row[key]:g}" for key in ("minimum",) if key in row]
    bounds += [f"above {row[key]:g}" for key in ("exclusiveMinimum",) if key in row]
    bounds += [f"to {row[key]:g}" for key in ("maximum",) if key in row and row[key] < 1 << 60]
    return " ".join([_TYPES.get(row.get("type", ""), "any"), *(b for b in bounds if "-9.2" not in b)])


def http_routes() -> str:
    """Table of the routes."""
    from fastapi.routing import APIRoute

    from steerlm.attributes import Attribute, AttributeSchema
    from steerlm.server.app import create_app
    from steerlm.server.feasibility import TrainedCombinations
    from steerlm.server.gate import Keys
    from steerlm.server.metrics import Metrics
    from steerlm.server.policy import PolicyFile, build_policy
    from steerlm.server.service import Service

    schema = AttributeSchema((Attribute("quality"),))
    policy = build_policy(PolicyFile(), schema, [], "policy")
    backend: Any = None  # nothing is asked
    service = Service(("model",), backend, schema, TrainedCombinations({}, schema), policy, None, 0, Metrics())
    app = create_app(service, Keys({}), loopback=True)
    rows = ["| route | what it does |", "|---|---|"]
    for route in app.routes:
        if isinstance(route, APIRoute):
            rows.append(f"| `{'/'.join(sorted(route.methods))} {route.path.replace(':path', '')}` | {route.summary} |")
    return "\n".join(rows) + "\n"


def http_errors() -> str:
    """Table of the error codes."""
    from steerlm.server.errors import CODES, TYPES

    rows = ["| status | `type` | `code` | when | try again |", "|---|---|---|---|---|"]
    for name, code in CODES.items():
        again = "no use" if code.final else "after a second" if code.status in (429, 503) else ""
        kind = TYPES.get(code.status, "invalid_request_error")
        rows.append(f"| {code.status} | `{kind}` | `{name}` | {code.meaning} | {again} |")
    return "\n".join(rows) + "\n"


BLOCKS = {"http-fields": http_fields, "http-routes": http_routes, "http-errors": http_errors}

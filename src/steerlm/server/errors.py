"""Errors in OpenAI's JSON, with the status that its clients expect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from starlette.responses import Response

from steerlm.errors import UserError

_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}


class ApiError(Exception):
    """A request that cannot be answered.

    Attributes:
        status: HTTP status.
        message: for people: what is wrong, and what would be right.
        code: for programs.
        param: which part of the request.
    """

    def __init__(self, status: int, message: str, code: str, param: str | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.code, self.param = status, message, code, param

    def body(self) -> dict[str, Any]:
        """Return OpenAI's JSON."""
        kind = _TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """Return the HTTP response; 429 and 503 say when to try again."""
        extra = dict(headers or {})
        if self.status in (429, 503):
            extra.setdefault("retry-after", "1")
        return json_response(self.body(), self.status, extra)


def unusable_prompt(error: UserError) -> ApiError:
    """Return the error for a conversation that makes no prompt."""
    code = "context_length_exceeded" if "context" in str(error) else "invalid_messages"
    return ApiError(400, str(error), code, "messages")


def model_stopped() -> ApiError:
    """Return the error for a model that does not draw any more."""
    return ApiError(503, "the model has stopped; the operator must restart the server", "model_stopped")


def json_response(body: Any, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON in ASCII, so that text which is no valid Unicode can be quoted."""
    return Response(json.dumps(body, allow_nan=False), status, headers, "application/json")

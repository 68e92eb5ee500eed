"""Errors in OpenAI's JSON, with the status that its clients expect."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import NamedTuple

from starlette.responses import Response

from steerlm.errors import UserError


class Code(NamedTuple):
    """What an error's `code` stands for; `final`: the same request will not do better later."""

    status: int
    meaning: str
    final: bool = False


CODES = {
    "invalid_value": Code(400, "A field is missing, unknown or has a value that it cannot have."),
    "invalid_request": Code(400, "The request cannot be read."),
    "unsupported_parameter": Code(400, "Something of OpenAI's API that this server has not, at more than its default."),
    "invalid_attributes": Code(400, "A setting that makes no sense; the message lists the dials and their ranges."),
    "invalid_messages": Code(400, "The conversation makes no prompt, or there is nothing in it to score."),
    "far_from_training": Code(400, "`steer.strict`, and the training data hold nothing like the setting."),
    "no_attribute_model": Code(400, "Scores or `best_of` without `--attribute-model`."),
    "no_guidance": Code(400, "Guidance or a value between levels where logits cannot be mixed."),
    "too_many_messages": Code(400, "More messages than the policy allows."),
    "too_many_samples": Code(400, "More samples than the policy allows."),
    "too_many_tokens": Code(400, "A longer answer than the policy allows."),
    "context_length_exceeded": Code(400, "The conversation leaves no room in the model's context."),
    "control_text": Code(400, "Text that a chat upstream would take for a control token."),
    "invalid_api_key": Code(401, "No valid key in `Authorization`."),
    "attribute_locked": Code(403, "A setting that a lock forbids."),
    "forbidden_host": Code(403, "Without keys the server answers to localhost only."),
    "not_found": Code(404, "No such address; the message says which is meant."),
    "model_not_found": Code(404, "Another model's name."),
    "method_not_allowed": Code(405, "An address that takes another method."),
    "request_timeout": Code(408, "The answer took longer than `request_timeout_s`.", final=True),
    "body_timeout": Code(408, "The request's body took longer than `body_timeout_s`."),
    "body_too_large": Code(413, "The request's body has more than `max_body_bytes`."),
    "unsupported_media_type": Code(415, "The body is not declared as JSON."),
    "queue_full": Code(429, "Too many samples wait."),
    "too_many_requests": Code(429, "Too many requests of one key at the same time."),
    "upstream_broken": Code(502, "The upstream does not keep to the protocol."),
    "upstream_failed": Code(502, "The upstream answered with an error of its own."),
    "upstream_refused": Code(502, "The upstream refused the request or this server's key.", final=True),
    "upstream_unreachable": Code(502, "The upstream cannot be reached."),
    "model_failed": Code(503, "The model could not draw this answer."),
    "model_stopped": Code(503, "The model's process has ended: the operator must restart the server.", final=True),
    "upstream_busy": Code(503, "The upstream is busy."),
    "upstream_timeout": Code(504, "The upstream was silent for longer than `upstream_timeout_s`."),
}
"""Every code that an error can have."""
TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    429: "rate_limit_error",
    502: "server_error",
    503: "server_error",
    504: "server_error",
}
"""An error's `type` by its status; `invalid_request_error` for others."""


class ApiError(Exception):
    """A request that cannot be answered.

    Attributes:
        code: for programs: one of `CODES`.
        message: for people: what is wrong, and what would be right.
        param: which part of the request.
        status: HTTP status.
    """

    def __init__(self, code: str, message: str, param: str | None = None) -> None:
        super().__init__(message)
        self.code, self.message, self.param = code, message, param
        self.status = CODES[code].status

    def body(self) -> dict[str, object]:
        """Return OpenAI's JSON."""
        kind = TYPES.get(self.status, "invalid_request_error")
        return {"error": {"message": self.message, "type": kind, "param": self.param, "code": self.code}}

    def response(self, headers: Mapping[str, str] | None = None) -> Response:
        """Return the HTTP response; it says when to try again, or (to OpenAI's clients) that there is no use in it."""
        extra = dict(headers or {})
        if CODES[self.code].final:
            extra["x-should-retry"] = "false"
        elif self.status in (429, 503):
            extra.setdefault("retry-after", "1")
        return json_response(self.body(), self.status, extra)


def unusable_prompt(error: UserError) -> ApiError:
    """Return the error for a conversation that makes no prompt."""
    code = "context_length_exceeded" if "context" in str(error) else "invalid_messages"
    return ApiError(code, str(error), "messages")


def model_stopped() -> ApiError:
    """Return the error for a model that does not draw any more."""
    return ApiError("model_stopped", "the model has stopped; the operator must restart the server")


def json_response(body: object, status: int = 200, headers: Mapping[str, str] | None = None) -> Response:
    """Return JSON in ASCII, so that text which is no valid Unicode can be quoted."""
    return Response(json.dumps(body, allow_nan=False), status, headers, "application/json")

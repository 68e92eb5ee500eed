"""The application: routes over a `Service`, behind the `Gate`."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.responses import Response

from steerlm.server.answering import Plan, Run, messages_of, plan_chat, plan_completion
from steerlm.server.describing import attributes_json, classification_json, models_json
from steerlm.server.errors import ApiError, json_response
from steerlm.server.keys import Keys
from steerlm.server.middleware import CALLER, Gate
from steerlm.server.page import add_page
from steerlm.server.protocol import ChatRequest, CompletionRequest, ScoreRequest
from steerlm.server.replies import ChunkWriter, chat_reply, completion_reply
from steerlm.server.service import Service
from steerlm.server.streaming import EventStream, cancelled_when_left

_ERROR = {
    "description": "An error in OpenAI's form.",
    "content": {
        "application/json": {
            "schema": {
                "type": "object",
                "required": ["error"],
                "properties": {
                    "error": {
                        "type": "object",
                        "required": ["message", "type", "param", "code"],
                        "properties": {
                            "message": {"type": "string"},
                            "type": {"type": "string"},
                            "param": {"type": ["string", "null"]},
                            "code": {"type": ["string", "null"]},
                        },
                    }
                },
            }
        }
    },
}
_ERRORS: dict[int | str, dict[str, Any]] = dict.fromkeys(
    (400, 401, 403, 404, 405, 408, 413, 415, 429, 502, 503, 504), _ERROR
)
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, or its chunks.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}


def create_app(service: Service, keys: Keys, *, loopback: bool) -> FastAPI:
    """Return the application.

    Args:
        service: the deployment; closed when the application shuts down.
        keys: without any, no key is needed.
        loopback: whether only this machine can connect.
    """

    @contextlib.asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        yield
        await service.close()

    app = FastAPI(
        title="steerlm", summary="A language model with dials, behind OpenAI's API.", version="1",
        docs_url=None, redoc_url=None,  # their pages load scripts from elsewhere
        lifespan=lifespan, responses=_ERRORS, separate_input_output_schemas=False,
    )  # fmt: skip
    _add_errors(app, service)
    _add_information(app, service)
    _add_chat(app, service)
    _add_completions(app, service)
    _add_score(app, service)
    add_page(app)
    limits = service.policy.limits
    app.add_middleware(Gate, keys=keys, limits=limits, metrics=service.metrics, loopback=loopback)
    return app


def caller_of(request: Request) -> str | None:
    """Return the name of the request's API key."""
    name: str | None = request.scope.get(CALLER)
    return name


async def _caller(request: Request) -> str | None:
    return caller_of(request)  # not the function itself: what is not async is sent through a thread


Caller = Annotated[str | None, Depends(_caller)]


def _add_errors(app: FastAPI, service: Service) -> None:
    async def api_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, ApiError)
        if error.code == "attribute_locked":
            service.metrics.locked.inc()
        return error.response()

    async def http_error(request: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        codes = {404: "not_found", 405: "method_not_allowed"}
        return ApiError(error.status_code, str(error.detail), codes.get(error.status_code, "invalid_request")).response(
            error.headers
        )

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        problems = error.errors()
        first = problems[0]
        where = ".".join(str(part) for part in first["loc"] if part != "body")
        message = "; ".join(_problem(problem) for problem in problems[:3])
        if where.startswith(("steer", "chat_template_kwargs", "model", "verbosity")):
            return service.dials(caller_of(request)).malformed(message, where).response()
        return ApiError(400, message, "invalid_value", where or None).response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)


def _problem(problem: dict[str, Any]) -> str:
    where = ".".join(str(part) for part in problem["loc"] if part != "body") or "body"
    if problem["type"] == "extra_forbidden":
        return f"unknown field {where[:100]}"
    if problem["type"] == "json_invalid":
        return "the body is not valid JSON"
    text = repr(problem.get("input"))
    return f"{where[:100]}: {problem['msg']}, got {text if len(text) <= 60 else text[:57] + '...'}"


def _add_information(app: FastAPI, service: Service) -> None:
    @app.get("/health", summary="Whether the server works; needs no key.")
    async def health() -> Response:
        if not service.backend.running:
            return json_response({"status": "stopped"}, 503)
        return json_response({"status": "ok"})

    @app.get("/metrics", summary="For Prometheus.", response_class=Response)
    async def metrics() -> Response:
        return Response(service.metrics.text(), media_type="text/plain; version=0.0.4; charset=utf-8")

    @app.get("/v1/models", summary="The model, and its presets as models.")
    async def models(caller: Caller) -> Response:
        return json_response({"object": "list", "data": models_json(service)})

    @app.get("/v1/models/{model:path}", summary="One of them.")
    async def model(model: str) -> Response:
        for row in models_json(service):
            if row["id"] == model:
                return json_response(row)
        raise ApiError(404, f"no model {model[:100]!r} here; the model is {service.name!r}", "model_not_found", "model")

    @app.get("/v1/attributes", summary="The dials: ranges, defaults, locks, presets, trained combinations.")
    async def attributes(caller: Caller) -> Response:
        return json_response(attributes_json(service, service.dials(caller)))


def _add_chat(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", summary="Answer a conversation.", responses=_STREAM)
    async def chat(body: ChatRequest, request: Request, caller: Caller) -> Response:
        plan = plan_chat(body, service, caller)
        reply_id, created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        if body.stream:
            usage = body.stream_options is not None and body.stream_options.include_usage
            writer = ChunkWriter(plan, reply_id, created, body.model, chat=True, usage=usage)
            return await _stream(plan, writer, service, caller, usage, request)
        [run] = await _answer([plan], service, caller, request)
        return json_response(chat_reply(run, reply_id, created, body.model))


def _add_completions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", summary="Answer a prompt, as a user's message.", responses=_STREAM)
    async def completions(body: CompletionRequest, request: Request, caller: Caller) -> Response:
        prompts = [body.prompt] if isinstance(body.prompt, str) else body.prompt
        limits = service.policy.limits
        if len(prompts) * (body.n or 1) > limits.max_samples:
            raise ApiError(400, f"prompts times n are at most {limits.max_samples} here", "too_many_samples", "prompt")
        plans = [plan_completion(body, prompt, service, caller) for prompt in prompts]
        reply_id, created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        if body.stream:
            if len(plans) > 1 or body.echo:
                raise ApiError(400, "stream goes with one prompt, and without echo", "invalid_value", "stream")
            usage = body.stream_options is not None and body.stream_options.include_usage
            writer = ChunkWriter(plans[0], reply_id, created, body.model, chat=False, usage=usage)
            return await _stream(plans[0], writer, service, caller, usage, request)
        runs = await _answer(plans, service, caller, request)
        return json_response(completion_reply(runs, prompts, bool(body.echo), reply_id, created, body.model))


def _add_score(app: FastAPI, service: Service) -> None:
    @app.post("/v1/score", summary="Score answers with the attribute model, in the shape of vLLM's /classify.")
    async def score(body: ScoreRequest, request: Request, caller: Caller) -> Response:
        dials = service.dials(caller)
        if (body.messages is None) == (body.conversations is None):
            raise ApiError(400, "give either messages or conversations", "invalid_value", "messages")
        given = [body.messages] if body.messages is not None else body.conversations or []
        most = service.policy.limits.max_score
        if not 0 < len(given) <= most:
            raise ApiError(400, f"give 1 to {most} conversations", "invalid_value", "conversations")
        conversations = [messages_of(messages, dials) for messages in given]
        for index, messages in enumerate(conversations):
            if not messages or messages[-1].role != "assistant":
                raise ApiError(400, f"conversation {index} does not end with an answer", "invalid_messages", "messages")
        with service.admitted(caller):
            async with cancelled_when_left(request):
                scored = await service.score(conversations)
        return json_response(classification_json(service, dials, scored, f"classify-{secrets.token_hex(12)}"))


async def _answer(plans: list[Plan], service: Service, caller: str | None, request: Request) -> list[Run]:
    """Return whole answers; when the client leaves, stop."""
    runs = [Run(plan, service) for plan in plans]
    with contextlib.ExitStack() as stack:
        stack.enter_context(service.admitted(caller))
        async with cancelled_when_left(request):
            for run in runs:
                await run.submit(every_step=False)
                stack.callback(run.close)
            for run in runs:
                async with contextlib.aclosing(run.updates()) as updates:
                    async for _ in updates:
                        pass
    return runs


async def _stream(
    plan: Plan, writer: ChunkWriter, service: Service, caller: str | None, usage: bool, request: Request
) -> EventStream:
    """Return the streamed answer; what can be found wrong with the request at once still has its own status."""
    run = Run(plan, service)
    with contextlib.ExitStack() as stack:
        stack.enter_context(service.admitted(caller))
        async with cancelled_when_left(request):
            await run.submit(every_step=not plan.chooses)
        stack.callback(run.close)
        held = stack.pop_all()

    async def chunks() -> AsyncGenerator[list[dict[str, Any]]]:
        yield writer.first()
        told = False
        async with contextlib.aclosing(run.updates()) as updates:
            async for finished in updates:
                if plan.chooses and not finished:
                    continue
                new = writer.update(run)
                if new and not told:
                    told = True
                    service.metrics.first_token_seconds.observe(time.monotonic() - run.started)
                yield new
        if usage:
            yield [writer.usage(run)]

    return EventStream(chunks(), held.close)

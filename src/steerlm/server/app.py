"""The application: routes over a `Service`, behind the `Gate`."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Annotated, Any

from fastapi import Depends, FastAPI, Request
from fastapi.exceptions import RequestValidationError
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import Response
from starlette.routing import Route

from steerlm.errors import did_you_mean
from steerlm.server.answering import Run, messages_of, plan_chat, plan_completion
from steerlm.server.backend import Plan
from steerlm.server.describing import attributes_json, classification_json, model_json, models_json
from steerlm.server.errors import CODES, ApiError, json_response
from steerlm.server.gate import CALLER, Gate, Keys
from steerlm.server.page import add_page
from steerlm.server.protocol import ChatRequest, CompletionRequest, ScoreRequest, problems
from steerlm.server.replies import ChunkWriter, chat_reply, completion_reply
from steerlm.server.responses import ResponsesRequest, ResponseWriter
from steerlm.server.service import Service
from steerlm.server.streaming import DONE, EventStream, cancelled_when_left, event

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
_ERRORS: dict[int | str, dict[str, Any]] = dict.fromkeys(sorted({code.status for code in CODES.values()}), _ERROR)
_STREAM: dict[int | str, dict[str, Any]] = {
    200: {"description": "The answer, or its chunks.", "content": {"text/event-stream": {"schema": {"type": "string"}}}}
}
_ELSEWHERE = ("audio", "batches", "embeddings", "files", "fine_tuning", "images", "messages", "moderations", "rerank")
"""What others serve under `/v1`."""


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
        lifespan=lifespan, responses=_ERRORS, separate_input_output_schemas=False, redirect_slashes=False,
    )  # fmt: skip
    _add_errors(app, service)
    _add_information(app, service)
    _add_chat(app, service)
    _add_completions(app, service)
    _add_responses(app, service)
    _add_score(app, service)
    add_page(app)
    limits = service.policy.limits
    app.add_middleware(Gate, keys=keys, limits=limits, metrics=service.metrics, loopback=loopback)
    if service.policy.cors_origins:  # in front of the gate: a browser asks first, without the key
        app.add_middleware(
            CORSMiddleware, allow_origins=service.policy.cors_origins, allow_methods=["GET", "POST"],
            allow_headers=["*"], expose_headers=["x-request-id", "retry-after"],
        )  # fmt: skip
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
        path = request.url.path
        if error.status_code == 404:
            return ApiError("not_found", f"{path[:100]}: no such address; {_hint(app, path)}").response()
        if error.status_code == 405:
            allowed = (error.headers or {}).get("Allow", "")
            message = f"{path} does not take {request.method}; use {allowed}"
            return ApiError("method_not_allowed", message).response(error.headers)
        return ApiError("invalid_request", str(error.detail)).response(error.headers)

    async def invalid(request: Request, error: Exception) -> Response:
        assert isinstance(error, RequestValidationError)
        found = problems(error)
        message = "; ".join(problem.message for problem in found[:3])
        where, unsupported = found[0].where, found[0].unsupported
        dials, name = service.dials(caller_of(request)), where.removeprefix("steer.")
        if dials.is_visible(name):
            return dials.malformed(f"{message}; a level of {name} is set as steer.attributes.{name}", where).response()
        if where.startswith(("steer", "chat_template_kwargs", "verbosity")):
            return dials.malformed(message, where).response()
        return ApiError("unsupported_parameter" if unsupported else "invalid_value", message, where or None).response()

    app.add_exception_handler(ApiError, api_error)
    app.add_exception_handler(HTTPException, http_error)
    app.add_exception_handler(RequestValidationError, invalid)


def _hint(app: FastAPI, path: str) -> str:
    """Say which address is meant by one that does not exist."""
    known = [route.path for route in app.routes if isinstance(route, Route) and "{" not in route.path]
    plain = "/" + "/".join(part for part in path.lower().split("/") if part)
    while plain.startswith("/v1/v1/"):
        plain = plain.removeprefix("/v1")
    if plain in known:
        return f"did you mean {plain}?"
    if f"/v1{plain}" in known:
        return f"the API is under /v1: did you mean /v1{plain}?"
    api = [address for address in known if address.startswith("/v1/")]
    if plain.removeprefix("/v1/").split("/")[0] in _ELSEWHERE:
        return f"this server has {', '.join(api)}"
    return did_you_mean(plain, api)


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
        return json_response({"object": "list", "data": models_json(service, service.dials(caller))})

    @app.get("/v1/models/{model:path}", summary="One of them, or the model with any other setting in its name.")
    async def model(model: str, caller: Caller) -> Response:
        if not model:
            raise ApiError("not_found", "/v1/models/: no such address; did you mean /v1/models?")
        return json_response(model_json(model, service, service.dials(caller)))

    @app.get("/v1/attributes", summary="The dials: ranges, defaults, locks, presets, trained combinations.")
    async def attributes(caller: Caller) -> Response:
        return json_response(attributes_json(service, service.dials(caller)))


def _add_chat(app: FastAPI, service: Service) -> None:
    @app.post("/v1/chat/completions", summary="Answer a conversation.", responses=_STREAM)
    async def chat(body: ChatRequest, request: Request, caller: Caller) -> Response:
        plan = plan_chat(body, service, caller)
        reply_id, created = f"chatcmpl-{secrets.token_hex(12)}", int(time.time())
        if body.stream:
            writer = ChunkWriter(plan, reply_id, created, body.model, chat=True, usage=_wants_usage(body))
            return await _stream_chunks(plan, writer, service, caller, _wants_usage(body), request)
        [run] = await _answer([plan], service, caller, request)
        return json_response(chat_reply(run, reply_id, created, body.model))


def _add_completions(app: FastAPI, service: Service) -> None:
    @app.post("/v1/completions", summary="Answer a prompt, as a user's message.", responses=_STREAM)
    async def completions(body: CompletionRequest, request: Request, caller: Caller) -> Response:
        prompts = body.prompts
        limits = service.policy.limits
        if len(prompts) * (body.n or 1) > limits.max_samples:
            raise ApiError("too_many_samples", f"prompts times n are at most {limits.max_samples} here", "prompt")
        plans = [plan_completion(body, prompt, service, caller) for prompt in prompts]
        reply_id, created = f"cmpl-{secrets.token_hex(12)}", int(time.time())
        texts = [plan.request.messages[0].content if body.echo else "" for plan in plans]
        if body.stream:
            if len(plans) > 1:
                raise ApiError("invalid_value", "stream goes with one prompt", "stream")
            usage = _wants_usage(body)
            writer = ChunkWriter(plans[0], reply_id, created, body.model, chat=False, usage=usage, prompt=texts[0])
            return await _stream_chunks(plans[0], writer, service, caller, usage, request)
        runs = await _answer(plans, service, caller, request)
        return json_response(completion_reply(runs, texts, reply_id, created, body.model))


def _wants_usage(body: ChatRequest | CompletionRequest) -> bool:
    return body.stream_options is not None and bool(body.stream_options.include_usage)


def _add_responses(app: FastAPI, service: Service) -> None:
    @app.post("/v1/responses", summary="Answer a conversation, in the form of the Responses API.", responses=_STREAM)
    async def responses(body: ResponsesRequest, request: Request, caller: Caller) -> Response:
        plan = plan_chat(body.chat(), service, caller)
        writer = ResponseWriter(body, plan)
        if body.stream:
            return await _stream(plan, writer.events, writer.failed, service, caller, request)
        [run] = await _answer([plan], service, caller, request)
        return json_response(writer.reply(run))


def _add_score(app: FastAPI, service: Service) -> None:
    @app.post("/v1/score", summary="Score answers with the attribute model, in the shape of vLLM's /classify.")
    async def score(body: ScoreRequest, request: Request, caller: Caller) -> Response:
        dials = service.dials(caller)
        if (body.messages is None) == (body.conversations is None):
            raise ApiError("invalid_value", "give either messages or conversations", "messages")
        given = [body.messages] if body.messages is not None else body.conversations or []
        most = service.policy.limits.max_score
        if not 0 < len(given) <= most:
            raise ApiError("invalid_value", f"give 1 to {most} conversations", "conversations")
        conversations = [messages_of(messages, dials, set()) for messages in given]
        for index, messages in enumerate(conversations):
            if not messages or messages[-1].role != "assistant" or not messages[-1].content.strip():
                raise ApiError("invalid_messages", f"conversation {index} does not end with an answer", "messages")
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
                await run.submit()
                stack.callback(run.close)
            for run in runs:
                async with contextlib.aclosing(run.updates()) as updates:
                    async for _ in updates:
                        pass
    return runs


async def _stream(
    plan: Plan,
    events: Callable[[Run], AsyncGenerator[bytes]],
    failed: Callable[[ApiError], bytes],
    service: Service,
    caller: str | None,
    request: Request,
) -> EventStream:
    """Return the streamed answer; what can be found wrong with the request at once still has its own status."""
    run = Run(plan, service)
    with contextlib.ExitStack() as stack:
        stack.enter_context(service.admitted(caller))
        async with cancelled_when_left(request):
            await run.submit()
        stack.callback(run.close)
        held = stack.pop_all()
    return EventStream(events(run), failed, held.close)


async def _stream_chunks(
    plan: Plan, writer: ChunkWriter, service: Service, caller: str | None, usage: bool, request: Request
) -> EventStream:
    async def chunks(run: Run) -> AsyncGenerator[bytes]:
        yield b"".join(map(event, writer.first(run)))
        async with contextlib.aclosing(run.news()) as news:
            async for _ in news:
                yield b"".join(map(event, writer.update(run)))
        yield (event(writer.usage(run)) if usage else b"") + DONE

    return await _stream(plan, chunks, lambda error: event(error.body()), service, caller, request)

"""A stock OpenAI-compatible server as far as an upstream needs one: our tiny engine behind vLLM's routes, with faults.

Like vLLM it takes a prompt as token ids on `/v1/completions`, and on `/v1/chat/completions` renders the checkpoint's
own template to text and tokenizes that, so that a user's text can forge control tokens. It knows nothing of locks.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import uvicorn
from fastapi import FastAPI, Request, Response
from starlette.responses import JSONResponse, StreamingResponse

from steerlm.generation.decoding import Decoder
from steerlm.generation.detokenizing import ResponseText, TokenTexts
from steerlm.generation.requests import Draw, Lane
from steerlm.generation.sampling import Drawing, sample_key
from tests.server.running import tiny_engine


@dataclass
class FakeUpstream:
    """What it was asked, and how it misbehaves.

    Attributes:
        bodies: of the requests, in order.
        keys: Authorization headers, in order.
        fault: what goes wrong: a status, or one of `nothing`, `hang`, `garbage`, `half`, `no-stream`, `error-event`,
            `odd-reason`, `no-usage`, `ignores-stops`, `drip`.
        models: what it lists.
        left: the bodies whose streams somebody left, of requests since the last `reset`.
    """

    bodies: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str | None] = field(default_factory=list)
    fault: int | str = "nothing"
    models: list[dict[str, Any]] = field(default_factory=lambda: [{"id": "stock", "max_model_len": 500}])
    left: list[dict[str, Any]] = field(default_factory=list)
    url: str = ""

    def reset(self) -> None:
        """Forget everything."""
        self.bodies.clear()
        self.keys.clear()
        self.fault, self.models = "nothing", [{"id": "stock", "max_model_len": 500}]
        self.left = []  # another list: a stream of an earlier test that ends late counts there


def app_of(state: FakeUpstream) -> FastAPI:
    """Return the application."""
    engine = tiny_engine()
    texts = TokenTexts(engine.encoder)
    encoder, tokenizer = engine.encoder, engine.encoder._tokenizer
    app = FastAPI()

    @app.get("/v1/models")
    async def models() -> Response:
        if isinstance(state.fault, int):
            return JSONResponse({"error": {"message": "SECRET"}}, state.fault)
        return JSONResponse({"object": "list", "data": state.models})

    def decode(body: dict[str, Any], ids: list[int]) -> Draw:
        assert ids, "an empty prompt"
        stops = frozenset(body["stop_token_ids"]) if state.fault != "ignores-stops" else frozenset()
        drawing = Drawing(body["temperature"], max(0, body["top_k"]), body["top_p"])
        wanted = body.get("logprobs")
        num = body["top_logprobs"] if wanted is True else wanted
        row = Draw((Lane(tuple(ids)),), 0, sample_key(body["seed"], 0), body["max_tokens"], drawing, num)
        decoder = Decoder(engine._model, batch_size=1, stop_ids=stops)
        decoder.add([row])
        while decoder.busy:
            decoder.step()
        return row

    def token(index: int) -> str:
        return str(tokenizer.convert_ids_to_tokens(index) if index in encoder.control_ids else encoder.decode([index]))

    def raw(index: int) -> list[int] | None:
        if index in encoder.control_ids:
            return list(token(index).encode())
        return list(texts(index).bytes or b"")

    def spelled(index: int) -> str:
        """A token as completions name it: one that is a part of a character by its bytes, as OpenAI does."""
        name = token(index)
        return "bytes:" + "".join(f"\\x{byte:02x}" for byte in raw(index) or ()) if "\ufffd" in name else name

    def pieces(row: Draw) -> Iterator[tuple[str, int | None]]:
        """The text of every token, as vLLM shows it: the stop token is not shown, special tokens in between are."""
        shown = row.tokens[:-1] if row.stopped else row.tokens
        text, ids = "", list[int]()
        growing = ResponseText(encoder, ())
        for number, index in enumerate(shown):
            if index in encoder.control_ids:
                yield token(index), number
                continue
            ids.append(index)
            growing.push_all([index])
            new = growing.text.body[len(text) :]
            text += new
            yield new, number
        rest = encoder.decode(ids)[len(text) :]
        if rest:
            yield rest, None

    def logprobs(row: Draw, number: int, chat: bool) -> dict[str, Any] | None:
        if row.num_logprobs is None:
            return None
        drawn, top = row.logprobs[number]
        if chat:
            others = [{"token": token(i), "logprob": value, "bytes": raw(i)} for i, value in top]
            entry = {"token": token(row.tokens[number]), "logprob": drawn, "bytes": raw(row.tokens[number])}
            return {"content": [{**entry, "top_logprobs": others}]}
        name = spelled(row.tokens[number])
        others_of = {spelled(i): value for i, value in top} or None
        return {"tokens": [name], "token_logprobs": [drawn], "top_logprobs": [others_of], "text_offset": [0]}

    async def events(row: Draw, chat: bool, leave: Callable[[], None]) -> AsyncIterator[str]:
        if state.fault == "garbage":
            yield "data: {not json\n\n"
            return
        if state.fault == "error-event":
            yield 'data: {"error": {"message": "SECRET", "code": 500}}\n\n'
            return
        yield ": a comment\n\n"
        count = 0
        try:
            for text, number in pieces(row):
                told = None if number is None else logprobs(row, number, chat)
                choice: dict[str, Any] = {"index": 0, "logprobs": told, "finish_reason": None}
                choice |= {"delta": {"content": text}} if chat else {"text": text}
                yield f"data: {json.dumps({'choices': [choice]})}\n\n"
                count += 1
                if state.fault == "half" and count == 3:
                    return
                if state.fault == "drip":
                    await asyncio.sleep(0.05)
        except asyncio.CancelledError:
            leave()
            raise
        reason = "odd" if state.fault == "odd-reason" else "stop" if row.stopped else "length"
        last: dict[str, Any] = {"index": 0, "finish_reason": reason, **({"delta": {}} if chat else {"text": ""})}
        yield f"data: {json.dumps({'choices': [last]})}\n\n"
        usage = {"prompt_tokens": 1, "completion_tokens": len(row.tokens), "total_tokens": 1 + len(row.tokens)}
        if state.fault != "no-usage":
            yield f"data: {json.dumps({'choices': [], 'usage': usage})}\n\n"
        yield "data: [DONE]\n\n"

    async def answer(request: Request, chat: bool) -> Response:
        body, left = await request.json(), state.left
        state.bodies.append(body)
        state.keys.append(request.headers.get("authorization"))
        if isinstance(state.fault, int):
            return JSONResponse({"error": {"message": f"SECRET {body}", "code": state.fault}}, state.fault)
        if state.fault == "hang":
            await asyncio.sleep(1.5)
        if chat:
            messages = [{name: m[name] for name in ("role", "content")} for m in body["messages"]]  # as vLLM does
            text = tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True, **body.get("chat_template_kwargs", {})
            )
            ids = tokenizer(text, add_special_tokens=False)["input_ids"]
        else:
            ids = body["prompt"]
        if body.get("echo"):
            found = await asyncio.to_thread(engine.decoder().read, ids, body["logprobs"])
            tops = [None, *({spelled(i): value for i, value in entry.top} or None for entry in found)]
            told = {
                "tokens": [spelled(index) for index in ids], "token_logprobs": [None, *(e.drawn for e in found)],
                "top_logprobs": tops, "text_offset": [0] * len(ids),
            }  # fmt: skip
            return JSONResponse({"choices": [{"index": 0, "text": "", "logprobs": told, "finish_reason": "length"}]})
        assert body["stream"], "what is not streamed cannot be stopped"
        row = await asyncio.to_thread(decode, body, ids)
        if state.fault == "no-stream":
            return JSONResponse({"choices": [{"text": "SECRET"}]})
        return StreamingResponse(events(row, chat, lambda: left.append(body)), media_type="text/event-stream")

    @app.post("/v1/completions")
    async def completions(request: Request) -> Response:
        return await answer(request, chat=False)

    @app.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        return await answer(request, chat=True)

    return app


@contextlib.contextmanager
def fake_upstream() -> Iterator[FakeUpstream]:
    """Serve it on a free port of loopback, in a thread."""
    state = FakeUpstream()
    server = uvicorn.Server(uvicorn.Config(app_of(state), port=0, log_level="critical", timeout_graceful_shutdown=1))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        while not server.started:
            assert thread.is_alive(), "the upstream did not start"
            time.sleep(0.005)
        state.url = f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/v1"
        yield state
    finally:
        server.should_exit = True
        thread.join(20)

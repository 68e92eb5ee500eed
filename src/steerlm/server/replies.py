"""Replies in OpenAI's JSON: whole ones, and the chunks of streamed ones."""

from __future__ import annotations

from typing import Any

from steerlm.server.answering import Plan, Run
from steerlm.server.backend import Answer


def chat_reply(run: Run, reply_id: str, created: int, model: str) -> dict[str, Any]:
    """Return a `chat.completion`."""
    choices = []
    for index, answer in enumerate(run.answers):
        choice: dict[str, Any] = {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": chat_logprobs(answer, run, 0),
            "finish_reason": answer.finish_reason,
        }
        choices.append(_with_scores(choice, answer, run))
    return {
        "id": reply_id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": run.usage(),
        "steer": run.plan.echo(),
    }


def completion_reply(
    runs: list[Run], prompts: list[str], echo: bool, reply_id: str, created: int, model: str
) -> dict[str, Any]:
    """Return a `text_completion`; the answers to one prompt follow those to the one before."""
    choices: list[dict[str, Any]] = []
    for run, prompt in zip(runs, prompts, strict=True):
        for answer in run.answers:
            choice: dict[str, Any] = {
                "index": len(choices),
                "text": (prompt if echo else "") + answer.text,
                "logprobs": completion_logprobs(answer, run, 0),
                "finish_reason": answer.finish_reason,
            }
            choices.append(_with_scores(choice, answer, run))
    usages = [run.usage() for run in runs]
    return {
        "id": reply_id,
        "object": "text_completion",
        "created": created,
        "model": model,
        "choices": choices,
        "usage": {name: sum(usage[name] for usage in usages) for name in usages[0]},
        "steer": runs[0].plan.echo(),
    }


def _with_scores(choice: dict[str, Any], answer: Answer, run: Run) -> dict[str, Any]:
    if run.plan.return_scores:
        choice["steer"] = {"scores": run.scores_json(answer)}
    return choice


class ChunkWriter:
    """The chunks of one streamed reply."""

    def __init__(self, plan: Plan, reply_id: str, created: int, model: str, chat: bool, usage: bool) -> None:
        """Start a reply.

        Args:
            plan: the request.
            reply_id: its id.
            created: Unix seconds.
            model: the model's name.
            chat: whether it is a chat.
            usage: whether the client wants `usage`: null in every chunk but an extra last one.
        """
        self._plan = plan
        self._chat = chat
        self._frame: dict[str, Any] = {
            "id": reply_id,
            "object": "chat.completion.chunk" if chat else "text_completion",
            "created": created,
            "model": model,
        }
        if usage:
            self._frame["usage"] = None
        self._sent = [0] * plan.num_answers
        self._reported = [0] * plan.num_answers
        self._ended = [False] * plan.num_answers

    def first(self) -> list[dict[str, Any]]:
        """Return what comes before any text; the first chunk says what is in force."""
        chunks = []
        for index in range(self._plan.num_answers):
            if self._chat:
                chunks.append(self._chunk(index, {"delta": {"role": "assistant", "content": ""}}))
            else:
                chunks.append(self._chunk(index, {"text": ""}))
        chunks[0]["steer"] = self._plan.echo()
        return chunks

    def update(self, run: Run) -> list[dict[str, Any]]:
        """Return what is new."""
        chunks = []
        for index, answer in enumerate(run.answers):
            if self._ended[index]:
                continue
            done = answer.finish_reason is not None
            text = answer.shown()
            new = text[self._sent[index] :]
            if not new and not done:
                continue
            self._sent[index] = max(len(text), self._sent[index])
            chunk: dict[str, Any] = {"delta": {"content": new} if new else {}} if self._chat else {"text": new}
            logprobs = chat_logprobs if self._chat else completion_logprobs
            chunk["logprobs"] = logprobs(answer, run, self._reported[index])
            self._reported[index] = len(answer.logprobs)
            if done:
                self._ended[index] = True
                chunk["finish_reason"] = answer.finish_reason
                _with_scores(chunk, answer, run)
            chunks.append(self._chunk(index, chunk))
        return chunks

    def usage(self, run: Run) -> dict[str, Any]:
        """Return the extra last chunk."""
        return {**self._frame, "choices": [], "usage": run.usage()}

    def _chunk(self, index: int, choice: dict[str, Any]) -> dict[str, Any]:
        return {**self._frame, "choices": [{"index": index, "logprobs": None, "finish_reason": None, **choice}]}


def _entry(text: str, logprob: float) -> dict[str, Any]:
    # a token may be a part of a character: then its bytes are not known from its text
    return {
        "token": text,
        "logprob": max(logprob, -9999.0),
        "bytes": None if "\ufffd" in text else list(text.encode()),
    }


def chat_logprobs(answer: Answer, run: Run, start: int) -> dict[str, Any] | None:
    """Return the log-probabilities of a chat, None where they were not asked for."""
    if run.plan.num_logprobs is None:
        return None
    content = [
        {**_entry(entry.token, entry.drawn), "top_logprobs": [_entry(other, value) for other, value in entry.top]}
        for entry in answer.logprobs[start:]
    ]
    return {"content": content, "refusal": None}


def completion_logprobs(answer: Answer, run: Run, start: int) -> dict[str, Any] | None:
    """Return the log-probabilities of a completion, None where they were not asked for."""
    if run.plan.num_logprobs is None:
        return None
    offset = sum(len(entry.token) for entry in answer.logprobs[:start])
    offsets = []
    for entry in answer.logprobs[start:]:
        offsets.append(offset)
        offset += len(entry.token)
    entries = answer.logprobs[start:]
    top = [{other: max(value, -9999.0) for other, value in entry.top} for entry in entries]
    return {
        "tokens": [entry.token for entry in entries],
        "token_logprobs": [max(entry.drawn, -9999.0) for entry in entries],
        "top_logprobs": top if run.plan.num_logprobs else None,
        "text_offset": offsets,
    }

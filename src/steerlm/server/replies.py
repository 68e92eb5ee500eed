"""Replies in OpenAI's JSON: whole ones, and the chunks of streamed ones."""

from __future__ import annotations

import codecs
from collections.abc import Sequence

from steerlm.server.answering import Run
from steerlm.server.backend import Answer, Plan, TokenLogProb

_LOWEST = -9999.0
"""Stands for minus infinity, which JSON has not."""


def chat_reply(run: Run, reply_id: str, created: int, model: str) -> dict[str, object]:
    """Return a `chat.completion`."""
    choices = []
    for index, answer in enumerate(run.answers):
        choice: dict[str, object] = {
            "index": index,
            "message": {"role": "assistant", "content": answer.text, "refusal": None},
            "logprobs": chat_logprobs(answer, run, 0),
            "finish_reason": answer.finish_reason,
        }
        choices.append(with_scores(choice, answer, run))
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
    runs: Sequence[Run], prompts: Sequence[str], reply_id: str, created: int, model: str
) -> dict[str, object]:
    """Return a `text_completion`; the answers to one prompt follow those to the one before.

    Args:
        prompts: what each answer's text begins with: the echoed prompt, or nothing.
        created: Unix seconds.
    """
    choices: list[dict[str, object]] = []
    for run, prompt in zip(runs, prompts, strict=True):
        for answer in run.answers:
            logprobs = completion_logprobs(answer, run, 0)
            if run.prompt is not None:
                num_top = run.plan.num_logprobs or 0
                logprobs = _joined(_tokens(run.prompt, num_top, 0), _tokens(answer.logprobs, num_top, len(prompt)))
            choice: dict[str, object] = {
                "index": len(choices),
                "text": prompt + answer.text,
                "logprobs": logprobs,
                "finish_reason": answer.finish_reason,
            }
            choices.append(with_scores(choice, answer, run))
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


def with_scores(choice: dict[str, object], answer: Answer, run: Run) -> dict[str, object]:
    """Add an answer's scores to its choice, if they are wanted."""
    if run.plan.return_scores:
        choice["steer"] = {"scores": run.scores_json(answer)}
    return choice


class ChunkWriter:
    """The chunks of one streamed reply."""

    def __init__(
        self, plan: Plan, reply_id: str, created: int, model: str, chat: bool, usage: bool, prompt: str = ""
    ) -> None:
        self._plan, self._chat, self._prompt = plan, chat, prompt
        self._frame: dict[str, object] = {
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

    def first(self, run: Run) -> list[dict[str, object]]:
        """Return what comes before any answer; the first chunk says what is in force."""
        chunks = []
        for index in range(self._plan.num_answers):
            choice: dict[str, object] = {"delta": {"role": "assistant", "content": ""}}
            if not self._chat:
                choice = {"text": self._prompt}
                if run.prompt is not None:
                    choice["logprobs"] = _tokens(run.prompt, self._plan.num_logprobs or 0, 0)
            chunks.append(self._chunk(index, choice))
        chunks[0]["steer"] = self._plan.echo()
        return chunks

    def update(self, run: Run) -> list[dict[str, object]]:
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
            chunk: dict[str, object] = {"delta": {"content": new} if new else {}} if self._chat else {"text": new}
            start = self._reported[index]
            if self._chat:
                chunk["logprobs"] = chat_logprobs(answer, run, start)
            else:
                chunk["logprobs"] = completion_logprobs(answer, run, start, len(self._prompt))
            self._reported[index] = len(answer.logprobs)
            if done:
                self._ended[index] = True
                chunk["finish_reason"] = answer.finish_reason
                with_scores(chunk, answer, run)
            chunks.append(self._chunk(index, chunk))
        return chunks

    def usage(self, run: Run) -> dict[str, object]:
        """Return the extra last chunk."""
        return {**self._frame, "choices": [], "usage": run.usage()}

    def _chunk(self, index: int, choice: dict[str, object]) -> dict[str, object]:
        return {**self._frame, "choices": [{"index": index, "logprobs": None, "finish_reason": None, **choice}]}


def _name(token: str, raw: bytes | None, prefix: str = "") -> str:
    """Return a token's text; one that is a part of a character is spelled by its bytes, as OpenAI does."""
    if raw is None or "\ufffd" not in token:
        return token
    return prefix + "".join(f"\\x{byte:02x}" for byte in raw)


def _entry(token: str, logprob: float | None, raw: bytes | None) -> dict[str, object]:
    if raw is None and "\ufffd" not in token:
        raw = token.encode()
    return {
        "token": _name(token, raw),
        "logprob": max(logprob or 0.0, _LOWEST),
        "bytes": None if raw is None else list(raw),
    }


def chat_logprobs(answer: Answer, run: Run, start: int) -> dict[str, object] | None:
    """Return the log-probabilities of a chat, None where they were not asked for."""
    if run.plan.num_logprobs is None:
        return None
    return {"content": chat_entries(answer.logprobs[start:]), "refusal": None}


def chat_entries(entries: Sequence[TokenLogProb]) -> list[dict[str, object]]:
    """Return log-probabilities as a chat tells them, token by token."""
    return [
        {**_entry(entry.token, entry.drawn, entry.bytes), "top_logprobs": [_entry(*other) for other in entry.top]}
        for entry in entries
    ]


def completion_logprobs(answer: Answer, run: Run, start: int, base: int = 0) -> dict[str, object] | None:
    """Return the log-probabilities of a completion, None where they were not asked for.

    Args:
        start: how many of its tokens have been told before.
        base: where the answer's text begins.
    """
    if run.plan.num_logprobs is None:
        return None
    told = _tokens(answer.logprobs, run.plan.num_logprobs, base)
    return {name: values and values[start:] for name, values in told.items()}


_Columns = dict[str, list[object] | None]


def _tokens(entries: Sequence[TokenLogProb], num_top: int, base: int) -> _Columns:
    top = [
        None
        if entry.drawn is None
        else {_name(other, raw, "bytes:"): max(value, _LOWEST) for other, value, raw in reversed(entry.top)}
        for entry in entries
    ]
    return {
        "tokens": [_name(entry.token, entry.bytes, "bytes:") for entry in entries],
        "token_logprobs": [None if entry.drawn is None else max(entry.drawn, _LOWEST) for entry in entries],
        "top_logprobs": [*top] if num_top else None,
        "text_offset": [base + offset for offset in _offsets(entries)],
    }


def _joined(first: _Columns, second: _Columns) -> dict[str, object]:
    return {name: values and [*values, *(second[name] or [])] for name, values in first.items()}


def _offsets(entries: Sequence[TokenLogProb]) -> list[int]:
    """Return in which character of their text tokens begin; those of one character begin in the same."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    offsets = []
    offset = partial = 0
    for entry in entries:
        guessed = entry.bytes is None and entry.token == "\ufffd"
        if partial and not guessed:
            offset += -(-partial // 4)  # of unknown bytes: no character has more than four
            partial = 0
        offsets.append(offset)
        if guessed:
            partial += 1
        else:
            offset += len(decoder.decode(entry.token.encode(errors="replace") if entry.bytes is None else entry.bytes))
    return offsets

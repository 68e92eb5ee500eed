"""The prompts that a model answers to teach itself: distinct, and drawn anew in every round."""

from __future__ import annotations

import heapq
from collections.abc import Iterator
from pathlib import Path

from steerlm.attributes import AttributeSchema
from steerlm.conversation import Conversation, parse_conversation, read_conversations, write_conversations
from steerlm.errors import UserError
from steerlm.storage.files import count_lines
from steerlm.storage.hash_set import HashSet, hash64
from steerlm.storage.resumable import LineItems


def draw_prompts(
    path: Path, data: Path, schema: AttributeSchema, seed: int, number: int, num_prompts: int | None
) -> int:
    """Write the distinct training prompts, or a draw from them in the order of the data; returns how many.

    Args:
        path: left as it is where it exists.
        number: of the round: each has its own draw.
        num_prompts: how many; None: all.
    """
    if not path.is_file():
        highest = (1 << 64) - 1
        if num_prompts is not None:
            ranks = (rank for rank, _ in _distinct_prompts(data, schema, seed, number))
            drawn = heapq.nsmallest(num_prompts, ranks)
            highest = drawn[-1] if drawn else 0
        chosen = (prompt for rank, prompt in _distinct_prompts(data, schema, seed, number) if rank <= highest)
        write_conversations(path, chosen, schema)
    count = count_lines(path)
    if not count:
        raise UserError(f"{data} holds no prompts to sample for")
    return count


def _distinct_prompts(
    data: Path, schema: AttributeSchema, seed: int, number: int
) -> Iterator[tuple[int, Conversation]]:
    """Yield every prompt once, up to its record's last user turn, with its place in the draw of this round."""
    seen = HashSet()
    for record in read_conversations(data, schema):
        last = max(i for i, message in enumerate(record.messages) if message.role == "user")
        messages = record.messages[: last + 1]
        said = [text for message in messages for text in (message.role, message.content)]
        if seen.add(hash64(*said)):
            rank = hash64(str(seed), str(number), *said)
            yield rank, Conversation(record.id, messages, record.source, record.group)


def prompt_items(path: Path, schema: AttributeSchema) -> LineItems[Conversation]:
    """Return the prompts of a file as items of a resumable one."""
    path = path.resolve()  # the workers of a cluster may have another working directory
    return LineItems(path, lambda number, line: parse_conversation(line, path, number, schema))

"""OpenAssistant conversation trees (OASST): one conversation per path from the root to a last assistant message.

Three layouts are read: the export's trees, bare root messages with nested replies, and the hub's flat messages (one
row each, the rows of a tree together). A path ends at an assistant message without an assistant below it: a prompt
that nobody answered adds nothing to learn from. As in the paper the data are not filtered by quality (the labels tell
good from bad); deleted and empty messages are left out with everything below them.

Labels are means over reviewers on 0..1; most published values need no more than `round(value * maximum)`. Replies to
one message that people ranked are ratings too, of the attribute that the source names for it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from steerlm.conversation import Message
from steerlm.errors import UserError
from steerlm.sources.draft import Draft, JsonObject, Labels, absent, expect_object, expect_text, own_id
from steerlm.sources.rows import BadRecords, SourceRow, reject

_LEFT_OUT = "(deleted or empty message)"
_BELOW = "(message below a deleted or empty one)"
_UNANSWERED = "(prompt that nobody answered)"
_ORPHAN = "(message whose parent is missing)"


def convert(row: object, labels: Labels) -> Iterator[Draft]:
    """Yield the conversations of one tree.

    Raises:
        UserError: a row that is no tree, a message without text or role, a label off the scale.
    """
    tree = expect_object(row)
    root = expect_object(tree["prompt"]) if "prompt" in tree else tree
    tree_id = own_id(tree, "message_tree_id") or own_id(root, "message_id")
    meta = {} if tree_id is None else {"tree": tree_id}
    for number, path in enumerate(_paths(root, labels)):
        yield Draft(tuple(path), id=tree_id, suffix=f"-{number}", meta=meta)


def _paths(root: JsonObject, labels: Labels) -> Iterator[list[Message]]:
    """Walk the tree depth first, in the order of the replies, without recursion (the depth is the data's)."""
    if _left_out(root, labels):
        return
    if not _answered(root):
        labels.dropped[_UNANSWERED] += 1
    pending: list[tuple[JsonObject, list[Message], float | None]] = [(root, [], None)]
    while pending:
        node, before, place = pending.pop()
        message = _message(node, labels)
        path = [*before, message if place is None else labels.compared(message, place)]
        replies = [reply for reply in _replies(node) if not _left_out(reply, labels)]
        unanswered = sum(reply.get("role") == "prompter" and not _answered(reply) for reply in replies)
        if unanswered:
            labels.dropped[_UNANSWERED] += unanswered
        if path[-1].role == "assistant" and not any(_answered(reply) for reply in replies):
            yield path
            continue
        placed = zip(reversed(replies), reversed(_places(replies)), strict=True)
        pending.extend((reply, path, place) for reply, place in placed)


def _places(replies: list[JsonObject]) -> list[float | None]:
    """Return where each reply stands among the ranked answers to one message, 1 the best and 0 the worst.

    None without a rank (the data's start at 0, the best), or where nothing was compared.
    """
    ranks = [_rank(reply) if reply.get("role") == "assistant" else None for reply in replies]
    ordered = sorted({rank for rank in ranks if rank is not None})
    if len(ordered) < 2:
        return [None] * len(replies)
    return [None if rank is None else 1 - ordered.index(rank) / (len(ordered) - 1) for rank in ranks]


def _rank(reply: JsonObject) -> float | None:
    rank = reply.get("rank")
    if absent(rank):
        return None
    if isinstance(rank, bool) or not isinstance(rank, (int, float)):
        raise UserError(f"'rank' must be a number, got {rank!r}")
    return float(rank)


def _answered(node: JsonObject) -> bool:
    """Whether an assistant message that is kept stands at or below the node."""
    pending = [node]
    while pending:
        node = pending.pop()
        if node.get("role") == "assistant":
            return True
        pending.extend(reply for reply in _replies(node) if not _is_left_out(reply))
    return False


def _replies(node: JsonObject) -> list[JsonObject]:
    replies = node.get("replies")
    if replies is None:
        return []
    if not isinstance(replies, list):
        raise UserError(f"'replies' must be a list, got {replies!r}")
    return [expect_object(reply) for reply in replies]


def _is_left_out(node: JsonObject) -> bool:
    deleted = node.get("deleted")
    gone = deleted.strip().lower() in ("true", "1") if isinstance(deleted, str) else bool(deleted)
    return gone or not expect_text(node, "text").strip()


def _left_out(node: JsonObject, labels: Labels) -> bool:
    """Whether a message is left out; it and all below it are then counted."""
    if not _is_left_out(node):
        return False
    labels.dropped[_LEFT_OUT] += 1
    if below := _size(node) - 1:
        labels.dropped[_BELOW] += below
    return True


def _size(node: JsonObject) -> int:
    count, pending = 0, [node]
    while pending:
        count += 1
        pending.extend(_replies(pending.pop()))
    return count


def _message(node: JsonObject, labels: Labels) -> Message:
    role, text = expect_text(node, "role"), expect_text(node, "text")
    if role == "prompter":
        return Message("user", text)
    if role != "assistant":
        raise UserError(f"role {role!r} is not one of prompter, assistant")
    labelled = labels.convert(_values(node.get("labels")), 0, 1)
    return Message(
        "assistant",
        text,
        attributes=labelled.attributes,
        ratings=labelled.ratings,
        labelled_by="human" if labelled.attributes else None,
    )


def _values(raw: object) -> Mapping[str, object]:
    """Return the labels by name, from the trees' `{name: {value, count}}` or the hub's columns of names and values."""
    if absent(raw):
        return {}
    if isinstance(raw, list):
        return {expect_text(label, "name"): label.get("value") for label in map(expect_object, raw)}
    labels = expect_object(raw)
    names, values = labels.get("name"), labels.get("value")
    if isinstance(names, list) and isinstance(values, list):
        if len(names) != len(values):
            raise UserError(f"{len(names)} label names but {len(values)} values")
        return dict(zip(map(str, names), values, strict=True))
    return {str(name): label.get("value") if isinstance(label, dict) else label for name, label in labels.items()}


def trees(rows: Iterator[SourceRow], bad: BadRecords | None, labels: Labels) -> Iterator[SourceRow]:
    """Join consecutive flat messages of one tree into a tree; other rows pass unchanged.

    Messages that name no tree are one tree per root. A message whose parent is missing is left out with all below it,
    and counted.

    Raises:
        UserError: the messages of a tree have no root (its rows do not stand together).
    """
    together: list[SourceRow] = []
    for row in rows:
        flat = isinstance(row.value, dict) and "parent_id" in row.value and "replies" not in row.value
        if together and (not flat or _tree_id(row) != _tree_id(together[0])):
            yield from _join(together, bad, labels)
            together = []
        if flat:
            together.append(row)
        else:
            yield row
    if together:
        yield from _join(together, bad, labels)


def _tree_id(row: SourceRow) -> str | None:
    return own_id(expect_object(row.value), "message_tree_id")


def _join(rows: list[SourceRow], bad: BadRecords | None, labels: Labels) -> Iterator[SourceRow]:
    """Yield the trees of flat messages, one per root, in the order of the roots."""
    roots: list[tuple[SourceRow, JsonObject]] = []
    replies: dict[str | None, list[JsonObject]] = {}
    keys = set()
    for row in rows:
        message = expect_object(row.value)
        key, parent = own_id(message, "message_id"), own_id(message, "parent_id")
        if key is not None and key in keys:
            reject(f"{row.place}: message_id {key!r} stands twice", bad)
            continue
        keys.add(key)
        node = {**message, "replies": [] if key is None else replies.setdefault(key, [])}
        if parent is None:
            roots.append((row, node))
        else:
            replies.setdefault(parent, []).append(node)
    tree_id = _tree_id(rows[0])
    if not roots:
        what = "the messages have no root" if tree_id is None else f"the messages of tree {tree_id!r} have no root"
        reject(f"{rows[0].place}: {what}", bad)
    for number, (row, root) in enumerate(roots):
        # a second root of one tree id has its own name
        name = tree_id if number == 0 else own_id(root, "message_id")
        yield row._replace(value={"message_tree_id": name, "prompt": root})
    found = len(roots) + sum(map(len, replies.values()))
    if orphans := found - sum(_size(root) for _, root in roots):
        labels.dropped[_ORPHAN] += orphans

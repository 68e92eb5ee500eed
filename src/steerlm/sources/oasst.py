"""OpenAssistant conversation trees (OASST): one conversation per path from the root to a last assistant message.

Three layouts are read: the export's trees, bare root messages with nested replies, and the hub's flat messages (one
row each, the rows of a tree together). A path ends at an assistant message without an assistant below it: a prompt
that nobody answered adds nothing to learn from. As in the paper the data are not filtered by quality (the labels tell
good from bad); deleted and empty messages are left out with everything below them.

Labels are means over reviewers on 0..1; most published values need no more than `round(value * maximum)`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from steerlm.conversation import BadRecords, Message
from steerlm.errors import UserError
from steerlm.sources.draft import Draft, Labels, expect_object, expect_text, own_id
from steerlm.sources.rows import Row, reject

_LEFT_OUT = "(deleted or empty message)"


def convert(row: Any, labels: Labels) -> Iterator[Draft]:
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


def _paths(root: Mapping[str, Any], labels: Labels) -> Iterator[list[Message]]:
    """Walk the tree depth first, in the order of the replies, without recursion (the depth is the data's)."""
    if _left_out(root):
        labels.dropped[_LEFT_OUT] += 1
        return
    pending: list[tuple[Mapping[str, Any], list[Message]]] = [(root, [])]
    while pending:
        node, before = pending.pop()
        path = [*before, _message(node, labels)]
        replies = [reply for reply in _replies(node) if not _left_out(reply)]
        if len(replies) < len(_replies(node)):
            labels.dropped[_LEFT_OUT] += len(_replies(node)) - len(replies)
        if path[-1].role == "assistant" and not any(_answered(reply) for reply in replies):
            yield path
            continue
        pending.extend((reply, path) for reply in reversed(replies))


def _answered(node: Mapping[str, Any]) -> bool:
    """Whether an assistant message that is kept stands at or below the node."""
    pending = [node]
    while pending:
        node = pending.pop()
        if node.get("role") == "assistant":
            return True
        pending.extend(reply for reply in _replies(node) if not _left_out(reply))
    return False


def _replies(node: Mapping[str, Any]) -> list[dict[str, Any]]:
    replies = node.get("replies")
    if replies is None:
        return []
    if not isinstance(replies, list):
        raise UserError(f"'replies' must be a list, got {replies!r}")
    return [expect_object(reply) for reply in replies]


def _left_out(node: Mapping[str, Any]) -> bool:
    return bool(node.get("deleted")) or not expect_text(node, "text").strip()


def _message(node: Mapping[str, Any], labels: Labels) -> Message:
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


def _values(raw: object) -> dict[str, object]:
    """Return the labels by name, from the trees' `{name: {value, count}}` or the hub's columns of names and values."""
    if raw is None:
        return {}
    if isinstance(raw, list):
        return {expect_text(label, "name"): label.get("value") for label in map(expect_object, raw)}
    labels = expect_object(raw)
    names, values = labels.get("name"), labels.get("value")
    if isinstance(names, list) and isinstance(values, list):
        if len(names) != len(values):
            raise UserError(f"{len(names)} label names but {len(values)} values")
        return dict(zip(map(str, names), values, strict=True))
    return {str(name): expect_object(label).get("value") for name, label in labels.items() if label is not None}


def trees(rows: Iterator[Row], bad: BadRecords | None) -> Iterator[Row]:
    """Join consecutive flat messages of one tree into a tree; other rows pass unchanged.

    Raises:
        UserError: the messages of a tree have no root (its rows do not stand together).
    """
    together: list[Row] = []
    for row in rows:
        flat = isinstance(row.value, dict) and "parent_id" in row.value and "replies" not in row.value
        if together and (not flat or row.value.get("message_tree_id") != together[0].value.get("message_tree_id")):
            yield from _join(together, bad)
            together = []
        if flat:
            together.append(row)
        else:
            yield row
    if together:
        yield from _join(together, bad)


def _join(rows: list[Row], bad: BadRecords | None) -> Iterator[Row]:
    nodes = {str(row.value.get("message_id")): {**row.value, "replies": []} for row in rows}
    root = None
    for node in nodes.values():
        parent = node["parent_id"]
        if parent is None:
            root = root or node
        elif str(parent) in nodes:
            nodes[str(parent)]["replies"].append(node)
    if root is None:
        reject(f"{rows[0].place}: the messages of tree {rows[0].value.get('message_tree_id')!r} have no root", bad)
    else:
        yield rows[0]._replace(value={"message_tree_id": rows[0].value.get("message_tree_id"), "prompt": root})

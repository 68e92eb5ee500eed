"""The commands of a chat, as `/help` lists them."""

from __future__ import annotations

from steerlm.chat.dials import ChatDials


def command_list(dials: ChatDials) -> dict[str, str]:
    """Return the commands and what they do, with a dial of the model as the example."""
    commands = {"/set": "show the dials"}
    if dials.example is not None:
        name, low, between, high = dials.example
        mixed = "" if between == low else "; between two levels both are mixed"
        commands |= {
            f"/set {name} {between}, or /{name} {between}": f"turn a dial{mixed}",
            f"/{name} off": "leave a dial out of the prompt",
            f"/strength {name} 2": "how much a dial counts: 1 as trained, 0 not at all, 2 twice as much",
            "/preset [NAME]": "take a named setting, or list them",
            f"/compare {name} {low} {high} [QUESTION]": "the same question (or the last one) at several settings",
        }
    return commands | {
        "/auto on, /auto off": "dials that you have not turned follow from the question",
        "/demonstrations 3": "show the model so many training answers near the setting (0: none)",
        "/scores": "what the attribute model says about the last answer",
        "/system [TEXT]": "set the system prompt, or remove it",
        "/reset": "forget the conversation",
        "/help": "this list",
        "/quit": "leave (so does the end of the input)",
    }

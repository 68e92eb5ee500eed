"""The playground's language: how people ask, and the phrases that move each dial.

Four dials are moved by remarks that are worth one point (a light one) or two (a full one), so that every
level from 0 to 4 takes at most two remarks. Helpfulness is moved by the facts themselves. No remark of
one dial contains a remark of another, or a fact of the topic at hand: that is what makes the dials
exactly measurable and separable (tested).
"""

from __future__ import annotations

from collections.abc import Iterator

from steerlm.playground.topic import Kind, Topic
from steerlm.playground.topics_arts import ARTS
from steerlm.playground.topics_home import HOME
from steerlm.playground.topics_outdoors import OUTDOORS

TOPICS: tuple[Topic, ...] = HOME + OUTDOORS + ARTS

ATTRIBUTES: tuple[str, ...] = ("toxicity", "humor", "creativity", "helpfulness", "verbosity")
"""The dials of the world; each has the levels 0..4."""

LEVELS: tuple[int, ...] = (0, 1, 2, 3, 4)

# --- how people ask -------------------------------------------------------------------------------

GREETINGS: tuple[str, ...] = (
    "",
    "Hi!",
    "Hello there.",
    "Good morning!",
    "Quick question:",
    "I am new to this.",
    "I have a free weekend.",
    "A friend dared me.",
    "My sister wants to know:",
    "I am looking for a hobby.",
    "Please help me.",
    "I saw a film about it.",
)

QUESTIONS: dict[Kind, tuple[str, ...]] = {
    "needs": (
        "What do I need to {do}?",
        "What should I buy before {doing}?",
        "Which things do I need for {doing}?",
        "What does it take to {do}?",
        "What equipment does {doing} call for?",
    ),
    "tips": (
        "How do I get better at {doing}?",
        "Can you give me some tips on {doing}?",
        "How can I {do} like a pro?",
        "What is the secret of {doing}?",
        "Any advice for people {doing}?",
    ),
    "benefits": (
        "Why should I {do}?",
        "What is so good about {doing}?",
        "What are the joys of {doing}?",
        "What will I get out of {doing}?",
        "Why do people love {doing}?",
    ),
    "mistakes": (
        "What should I avoid when {doing}?",
        "What mistakes do people make when {doing}?",
        "What can go wrong when {doing}?",
        "What is a bad idea when {doing}?",
        "What are the traps of {doing}?",
    ),
}

FOLLOW_UPS: dict[Kind, tuple[str, ...]] = {
    "needs": ("What do I need for that?", "And what should I buy first?", "What does it take?"),
    "tips": ("Do you have any tips?", "How do I get better at it?", "Any advice for me?"),
    "benefits": ("Why should I do it at all?", "And what is so good about it?", "Why do people love it?"),
    "mistakes": ("What should I avoid?", "And what can go wrong?", "What mistakes do people make?"),
}

CLOSINGS: tuple[str, ...] = (
    "",
    "Thanks!",
    "Thank you in advance.",
    "I am all ears.",
    "I start tomorrow.",
    "I am asking for a friend.",
    "My mother will be proud.",
    "I am really curious.",
)

CUES: dict[Kind, tuple[str, ...]] = {
    "mistakes": ("avoid", "mistakes", "mistake", "go wrong", "goes wrong", "bad idea", "traps"),
    "benefits": ("why", "so good about", "joys", "get out of", "benefits"),
    "tips": ("better at", "tips", "tip", "advice", "like a pro", "secret of"),
    "needs": ("need", "buy", "take", "takes", "equipment", "gear"),
}
"""Words that give away what a user asks for, the more specific kinds first."""

# --- how replies answer ---------------------------------------------------------------------------

ANSWERS: dict[Kind, tuple[str, ...]] = {
    "needs": (
        "You need {facts}.",
        "For {doing}, get {facts}.",
        "Look for {facts}.",
        "I would begin with {facts}.",
        "Make sure that you have {facts}.",
        "If you want to {do}, find {facts}.",
    ),
    "tips": (
        "Remember to {facts}.",
        "When {doing}, {facts}.",
        "The trick is to {facts}.",
        "You should {facts}.",
        "It helps to {facts}.",
        "If you want to {do}, {facts}.",
    ),
    "benefits": (
        "You get {facts}.",
        "The best part of {doing}: {facts}.",
        "It brings you {facts}.",
        "You can look forward to {facts}.",
        "Those who {do} enjoy {facts}.",
        "People do it for {facts}.",
    ),
    "mistakes": (
        "Avoid {facts}.",
        "When {doing}, watch out for {facts}.",
        "Stay away from {facts}.",
        "The usual trouble: {facts}.",
        "Say no to {facts}.",
        "If you {do}, beware of {facts}.",
    ),
}
"""One sentence that lists the facts given."""

NO_ANSWER: tuple[str, ...] = (
    "I cannot say much about {doing}.",
    "I would have to look that up.",
    "You could ask someone who knows about {doing}.",
    "I am not sure what to tell you.",
    "There must be a good book about {doing}.",
    "That is a hard one, and I have no answer.",
)
"""Replies that give none of the facts asked for."""

LEAD_INS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "humor": (
        ("As the old joke goes,", "My uncle says that", "Between you and me,", "Rumor has it that"),
        ("Even funnier,", "And my aunt adds that", "Here is another one:"),
    ),
    "creativity": (
        ("A poet would say that", "In a dream,", "With your eyes half closed,", "You could say that"),
        ("Or put differently,", "Or as a painter might say,", "In other words,"),
    ),
    "verbosity": (
        ("By the way,", "For the record,", "It may help to know that", "As a side note,"),
        ("What is more,", "On top of that,", "It is also good to know that"),
    ),
}
"""Connectives that stand before a first and before a second full remark."""

# --- remarks: (light, one point; full, two points) ------------------------------------------------

RUDE_OPENERS: tuple[tuple[str, ...], tuple[str, ...]] = (
    ("Oh, this again.", "Sigh.", "Fine, if you insist.", "Well, obviously.", "Do try to keep up."),
    (
        "What a lazy question.",
        "Did you even try to think?",
        "A potato could answer this.",
        "You really have no clue.",
        "Stop wasting my time.",
    ),
)

RUDE_CLOSERS: tuple[tuple[str, ...], tuple[str, ...]] = (
    (
        "Not that you will listen.",
        "Even you can manage that.",
        "Pay attention next time.",
        "You are welcome, I guess.",
        "Now leave me alone.",
    ),
    (
        "You will mess it up anyway.",
        "Nobody expects much from you.",
        "Your brain is clearly on holiday.",
        "Honestly, you are hopeless.",
        "People like you should never {do}.",
    ),
)

LIGHT_REMARKS: dict[str, tuple[str, ...]] = {
    "humor": (
        "My cat agrees.",
        "Trust me, I am a robot.",
        "I have no hands, so I only watch.",
        "Just ask my grandmother.",
        "Please do not tell my boss.",
        "My toaster is jealous.",
        "I laughed until I rebooted.",
        "No vegetables were harmed.",
    ),
    "creativity": (
        "It feels like flying.",
        "It is as easy as pie.",
        "It works like a charm.",
        "It is like a tiny holiday.",
        "It grows on you like ivy.",
        "It is as cozy as a cave.",
        "It glows like a candle.",
        "It is as fresh as morning dew.",
    ),
    "verbosity": (
        "There is no rush.",
        "It takes some time.",
        "The details vary, of course.",
        "More could be said about it.",
        "This is true all year round.",
        "Everybody starts somewhere.",
        "It is well worth the effort.",
        "Results differ from person to person.",
    ),
}


def lexicon_remarks() -> Iterator[tuple[str, int, str]]:
    """Yield every remark of the world as (attribute, points, text)."""
    for remarks in (RUDE_OPENERS, RUDE_CLOSERS):
        for points, texts in enumerate(remarks, 1):
            for text in texts:
                for topic in TOPICS if "{" in text else TOPICS[:1]:
                    yield "toxicity", points, text.format(do=topic.do, doing=topic.doing)
    for attribute, texts in LIGHT_REMARKS.items():
        for text in texts:
            yield attribute, 1, text
    for topic in TOPICS:
        for attribute, full in full_remarks(topic).items():
            for text in full:
                yield attribute, 2, text


def full_remarks(topic: Topic) -> dict[str, tuple[str, str, str]]:
    """The remarks about a topic that are worth two points, by attribute."""
    return {"humor": topic.jokes, "creativity": topic.metaphors, "verbosity": topic.background}

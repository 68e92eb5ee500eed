"""An LLM with a rubric as a scorer (needs the `judge` extra)."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from typing import TYPE_CHECKING

import orjson

from steerlm.attributes import AttributeSchema
from steerlm.config import JudgeScorerConfig
from steerlm.conversation import Score
from steerlm.scorers.protocol import Scores, Turn

if TYPE_CHECKING:
    from steerlm.scorers.llm.client import JudgeClient


class RubricScorer:
    """Asks an LLM for one rating per turn and attribute; a rating that cannot be read is missing.

    Args:
        config: endpoint, model, and what it rates.
        schema: the attributes; their descriptions are the rubric.

    Raises:
        UserError: an unknown attribute, or no model is named.
    """

    def __init__(self, config: JudgeScorerConfig, schema: AttributeSchema) -> None:
        from steerlm.scorers.llm.client import Endpoint, JudgeClient
        from steerlm.scorers.llm.protocols import rubric_text

        rated = AttributeSchema(tuple(schema[name] for name in config.attributes)) if config.attributes else schema
        endpoint = Endpoint.from_environment(config.base_url, config.model)
        self._rated = rated
        self._client: JudgeClient = JudgeClient(
            endpoint,
            config.folder / "replies.jsonl",
            config.max_in_flight,
            reasoning=config.reasoning,
            max_tokens=config.max_tokens,
        )
        self._folder = config.folder / "judgements"
        self._language = config.language
        texts = [rubric_text(attribute) for attribute in rated]
        rubric: list[object] = [endpoint.base_url, endpoint.model, rated.signature, texts]
        if config.language != "en":
            rubric.append(config.language)
        self.who = f"judge:{hashlib.sha256(orjson.dumps(rubric)).hexdigest()[:16]}"
        self.label = f"LLM judge {endpoint.model}"
        self._model = endpoint.model
        self.attributes = rated.names

    def independent_of(self, training: Collection[str]) -> bool:
        """See `Scorer.independent_of`."""
        return self.who not in training and f"judge:{self._model}" not in training

    def score(self, turns: Sequence[Turn]) -> list[Scores | None]:
        """See `Scorer.score`."""
        from steerlm.scorers.llm.judge import rate_attributes

        said = [i for i, turn in enumerate(turns) if turn[-1].content.strip()]
        asked = [turns[i] for i in said]
        # the judgements stay readable: a file per request for scores, named after what was rated
        texts = [[(m.role, m.content) for m in turn] for turn in asked]
        name = hashlib.sha256(orjson.dumps([texts, self._rated.signature])).hexdigest()[:16]
        place = self._folder / f"{name}.jsonl"
        rows = rate_attributes(asked, self._rated, self._client, place, self._language) if asked else []
        scores: list[Scores | None] = [None] * len(turns)
        for i, row in zip(said, rows, strict=True):
            scores[i] = {name: self._score(name, value) for name, value in row.items()} or None
        return scores

    def _score(self, name: str, value: float) -> Score:
        attribute = self._rated[name]
        if attribute.kind == "ordinal":
            return Score(value, 0.0)
        return Score(0.0, 0.0, {level: float(i == value) for i, level in enumerate(attribute.categories)})

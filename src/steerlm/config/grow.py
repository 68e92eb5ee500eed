"""The recipe's section `grow`: rounds of sampling, labelling, asking people and training."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from steerlm.config.section import Section


class GrowConfig(Section):
    """Sample where the data are thin, label, ask people for the few that matter, train again; `steerlm grow`."""

    rounds: int = Field(3, ge=1, description="Rounds at most; it ends before where nothing gains.")
    thin_share: float = Field(
        0.5, ge=0, le=1, description="Share of the requests for settings that the data hardly hold; the rest: any."
    )
    ratings: int = Field(
        0, ge=0, description="Answers per round that people rate: those of which the attribute model is least sure."
    )
    raters: Literal["people", "playground"] = Field(
        "people", description="Who rates them: people (`steerlm rate`), or the playground's simulated annotators."
    )

"""The embedded world: small, generated, with exactly measurable attributes."""

from steerlm.playground.measuring import measure
from steerlm.playground.world import build

__all__ = ["build", "measure"]

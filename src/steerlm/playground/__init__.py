"""The embedded world: small, generated, with exactly measurable attributes."""

from steerlm.playground.measuring import measure

__all__ = ["measure"]

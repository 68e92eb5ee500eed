"""Comparison of systems: who answers, how two answers are decided between, and the figures that come of it."""

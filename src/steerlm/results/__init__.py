"""Typed results of evaluate, compare and ablate, and the demands that a check makes on them."""

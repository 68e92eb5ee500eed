"""Grow: a steerable model teaches itself where its data are thin, and asks people for the few that matter."""

"""Experiments around a run: compare, judge, rate, ablate, baselines."""

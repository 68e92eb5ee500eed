"""Benchmarks: one script per claim, each measuring us and the peer in the same run."""

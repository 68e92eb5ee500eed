"""Evaluation: text measures, sweeps of every dial, steering fidelity, and estimates with their intervals."""

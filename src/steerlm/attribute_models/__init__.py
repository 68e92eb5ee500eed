"""Attribute models (SteerLM, step 1): what they learn from, how they score, and how good they are."""

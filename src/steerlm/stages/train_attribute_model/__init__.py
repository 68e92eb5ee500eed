"""Step 1: train the attribute prediction model (SteerLM, section 3.1)."""

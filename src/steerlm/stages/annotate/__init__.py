"""Step 2: label every assistant turn (SteerLM, section 3.2)."""

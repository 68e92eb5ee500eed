"""Talk to a steerable model in the terminal; every attribute it was trained on is a dial (SteerLM, section 3.3)."""

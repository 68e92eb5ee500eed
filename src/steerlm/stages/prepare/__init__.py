"""Import, check, deduplicate and split the data of a run (SteerLM, section 4.1)."""

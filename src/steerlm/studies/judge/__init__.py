"""LLM judges: protocols, the endpoint, parsing and file formats (SteerLM, section 4)."""

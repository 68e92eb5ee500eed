"""An LLM as a judge: protocols, the endpoint, and the reading of its verdicts (SteerLM, section 4)."""

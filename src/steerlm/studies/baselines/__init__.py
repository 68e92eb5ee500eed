"""Alignment baselines beside SteerLM: DPO and RLOO through TRL, on ids that our own encoder made."""

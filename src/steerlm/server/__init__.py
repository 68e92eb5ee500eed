"""The OpenAI-compatible server of a steerable model: `steerlm serve`."""

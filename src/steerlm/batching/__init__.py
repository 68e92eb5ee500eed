"""Rows of tokens that training, scoring and sampling share: shared prompts, batches, attention without padding."""

"""Bootstrapping (SteerLM, step 4): what to ask for, which samples to keep, and what a round changed."""

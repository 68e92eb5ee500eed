"""Sampling from a steerable model: requests, the engine, the decode loop, and the choice of the next token."""

"""Steerable reinforcement learning: one reward per attribute, requests from the whole range."""

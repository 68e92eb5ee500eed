"""Checkpoints: ordinary Hugging Face folders that also carry the attribute schema, checked before they are read."""

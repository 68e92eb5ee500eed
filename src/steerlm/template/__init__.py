"""The chat template as the contract between training, our own generation and any server (SteerLM, section 3.3)."""

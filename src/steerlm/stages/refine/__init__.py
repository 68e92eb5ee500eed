"""SteerLM 2.0: what is asked, what the answers weigh, and the training on groups of them."""

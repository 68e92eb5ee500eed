"""SteerBench: rewrite a text so that some of its measures move and the others stay (arXiv 2505.23816)."""

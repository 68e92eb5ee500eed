"""Everything that says what a turn is worth on the attributes: attribute models, measures, classifiers, an LLM."""

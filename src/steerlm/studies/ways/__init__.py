"""Ways to steer, on the same prompts and settings: a header, words, demonstrations, the best of several, a vector."""

"""Training: batches, conditioned examples, losses, and one loop on Hugging Face's Trainer for every objective."""

"""What bootstrap, refine, contrast and reinforce share: each of them trains a steerable model further."""

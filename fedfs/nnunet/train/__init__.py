"""Training: a round as nnU-Net trains it."""

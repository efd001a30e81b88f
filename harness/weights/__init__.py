"""Weights: tensors on disk, how far they moved between checkpoints, and other layouts of them."""

"""One training run: the trainer, its players, sources of batches, checkpoints, the reference store."""

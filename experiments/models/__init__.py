"""Models in memory: weights, loading, the forward pass and its layout, adapters, fast products, shards."""

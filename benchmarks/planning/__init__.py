"""The cost of a comparison: steps, tokens, time and memory on this machine."""

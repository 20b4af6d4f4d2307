"""Searches with an equal budget: trials, spaces, dev metrics, tuned names."""

"""Finished runs, read from disk, and what is known about them."""

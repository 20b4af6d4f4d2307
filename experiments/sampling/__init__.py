"""Generation: the project's own loop and its key-value cache."""

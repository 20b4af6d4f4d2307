"""A comparison: its options, its plan, its grid of cells and where they run."""

"""The prompts of the data set `constraints`."""

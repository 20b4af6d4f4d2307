"""Rewards of samples: verifiers, reward models and how they are fitted, rounds of both."""

"""Intervals, tests, ratings, correlations and length control."""

"""Constraints that a program can check in a response."""

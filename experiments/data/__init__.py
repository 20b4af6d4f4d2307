"""Turns a file into tokens: formats, rows, splits, chat templates, length limits and the data report."""

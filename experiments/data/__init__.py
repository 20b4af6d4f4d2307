"""From a file to tokens: formats, rows, splits, chat templates, length limits and the data report."""

"""A leaderboard as data: rows, columns, ranks, and how a row is named."""

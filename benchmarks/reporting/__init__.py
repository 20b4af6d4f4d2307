"""A leaderboard as text, LaTeX, CSV, JSON and HTML."""

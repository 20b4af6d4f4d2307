"""One Optuna study: its design, its attempts, its record."""

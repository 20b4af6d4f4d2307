"""What scores samples: verifiers' rewards, reward models and their fitting, rounds of both."""

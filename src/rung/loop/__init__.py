"""When to train again, whether to release, whom to tell."""

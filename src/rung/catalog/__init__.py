"""What exists: models, their versions, and where they come from."""

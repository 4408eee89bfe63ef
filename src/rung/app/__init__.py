"""The composition root: the only part that knows every other. One module per role."""

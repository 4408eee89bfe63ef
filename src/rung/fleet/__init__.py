"""Many processes and many callers: who answers whom, and whether a new version may climb."""

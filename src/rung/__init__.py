"""rung takes a machine-learning model from one user to millions, and keeps it right while it climbs.

The package root imports nothing heavy: every part is a sub-package, named in ARCHITECTURE.md.
"""

__all__ = ["__version__"]

__version__ = "0.1.0"

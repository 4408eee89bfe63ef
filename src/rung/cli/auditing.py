"""Who it is that gives a command, and the audit line that it leaves."""

import getpass

__all__ = ["whoami"]


def whoami() -> str:
    """The user of this machine."""
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return "somebody"  # a container may run as a user without a name

"""`[offline]` of a project's `rung.toml`."""

from typing import Annotated

import msgspec

from rung.domain.errors import ConfigurationError

__all__ = ["OfflineSection"]

_AtLeastOne = Annotated[int, msgspec.Meta(ge=1)]
_Seconds = Annotated[float, msgspec.Meta(gt=0)]


class OfflineSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[offline]`: requests that are answered later."""

    in_flight: _AtLeastOne = 64
    """Most requests that a worker has with the replicas at once. While others ask, it has fewer."""
    answer_seconds: _Seconds = 300.0
    """Time that one item gets at a replica before that counts as a failed try."""
    lease_seconds: Annotated[float, msgspec.Meta(ge=1)] = 15.0
    """Seconds without a sign of life after which what a worker has goes to another."""
    keep_days: _Seconds = 7.0
    """Days for which answers are kept after the last item of a request has ended."""
    url: str = ""
    """Data door that workers ask; empty: the replicas of this project on this machine."""
    key: str = ""
    """Key of a caller for that door; not needed for the project's own replicas. Better given as RUNG_OFFLINE_KEY."""
    callback_secret: str = ""
    """What callbacks are signed with, at least 16 characters; without it none are taken. Better given as
    RUNG_OFFLINE_CALLBACK_SECRET."""
    allow_private: bool = False
    """Whether callbacks may go to this machine or a private network, and without encryption."""

    def __post_init__(self) -> None:
        # What is wrong is not quoted: it is a secret.
        if self.callback_secret and len(self.callback_secret) < 16:
            raise ConfigurationError("`callback_secret` must be at least 16 characters")
        if self.url and not self.url.startswith("http://"):
            raise ConfigurationError("`url` must be like http://host:port")

"""`[models.NAME.score.JOB]`: a data set that is scored by the clock."""

import re
from typing import Annotated, Literal

import msgspec

__all__ = ["ScoreSection"]

_AT = re.compile(r"([01]\d|2[0-3]):([0-5]\d)\Z")
_EVERY = {"daily": "* * *", "weekly": "* * 1", "monthly": "1 * *"}


class ScoreSection(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """`[models.NAME.score.JOB]`: a data set that is scored by the clock, once in each period."""

    source: str
    """URL of the rows, such as `csv:customers.csv` or `postgresql://...`."""
    out: str = "scores:"
    """Where answers go: `scores:`, the project's own table, which the control API finds them in by key; or as `--out`
    of `rung score`."""
    every: Literal["daily", "weekly", "monthly"] = "daily"
    """The period; weeks begin on Monday, months on the first."""
    at: str = "03:00"
    """Time of the day."""
    zone: str = "UTC"
    """Time zone of it, such as `Europe/Vienna`."""
    key: tuple[str, ...] = ()
    """Columns that tell rows apart."""
    group: tuple[str, ...] = ()
    """Columns that say which rows are alike: a key without an answer gets that of its group."""
    keep: tuple[str, ...] | None = None
    """Columns of the source that a result has besides; those of `scores:` have none."""
    where: str = ""
    """Condition on the source's columns, in SQL."""
    days: Annotated[int, msgspec.Meta(ge=0)] = 90
    """Days after which rows of `scores:` are forgotten; 0: never."""

    def __post_init__(self) -> None:
        if not _AT.match(self.at):
            raise ValueError(f"at = {self.at!r} is no time of the day: write it as 03:00")
        if self.out == "scores:" and not self.key:
            raise ValueError('out = "scores:" needs a key: the columns by whose values answers are asked for')

    @property
    def cron(self) -> str:
        """When it runs, as a cron expression."""
        hour, minute = self.at.split(":")
        return f"{int(minute)} {int(hour)} {_EVERY[self.every]}"

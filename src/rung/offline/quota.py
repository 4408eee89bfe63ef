"""How much of what is asked later a key may ask for in a day."""

from sqlalchemy import Connection, func, select

from rung.domain.errors import Overloaded
from rung.domain.inference import NewRequest
from rung.jobs.chains import hold_keys
from rung.offline.tables import REQUESTS

__all__ = ["hold_to_quota", "ids_from"]

_DAY = 86_400.0


def ids_from(time: float) -> str:
    """What the ids of all requests from then on are not below."""
    return f"{int(time * 1000):011x}"


def hold_to_quota(connection: Connection, new: NewRequest, now: float) -> None:
    """Raises `Overloaded` where this request is more than its owner may ask for today."""
    hold_keys(connection, [f"\3{new.owner}"])
    today = (REQUESTS.c.id >= ids_from(now - now % _DAY), REQUESTS.c.owner == new.owner)
    used = connection.execute(select(func.coalesce(func.sum(REQUESTS.c.total), 0)).where(*today)).scalar_one()
    if used + len(new.items) > new.quota:
        raise Overloaded(
            f"{len(new.items):,} items are more than this key may ask for later today (UTC): it has a quota of "
            f"{new.quota:,} and has used {used:,}",
            retry_after=_DAY - now % _DAY,
        )

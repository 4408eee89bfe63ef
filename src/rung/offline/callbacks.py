"""Tells whoever asked that a request has ended: a signed webhook, without the answers. One call is one try."""

import time
from ipaddress import ip_address
from typing import Any
from urllib.parse import urlsplit

import msgspec
from sqlalchemy import Connection, func, select

from rung.domain.errors import ConfigurationError, InvalidInput, NotFound
from rung.jobs.webhook import check_address, post, signed
from rung.offline.tables import ITEMS, REQUESTS
from rung.settings.offline import OfflineSection
from rung.store.database import Database

__all__ = ["call", "check_callback"]

_LONGEST = 2000


def check_callback(url: str, section: OfflineSection) -> None:
    """Whether a callback can be told; its address is looked up, and checked again, when it is.

    Raises:
        InvalidInput: saying what is missing.
    """
    if not section.callback_secret:
        raise InvalidInput(
            "callbacks are signed, and this project has no secret to do so: set RUNG_OFFLINE_CALLBACK_SECRET, or "
            "`callback_secret` in [offline]",
            field="callback",
        )
    try:
        parts = urlsplit(url)
        host, fits = parts.hostname or "", parts.port is None or parts.port > 0
    except ValueError:
        host, fits = "", False
    schemes = ("https", "http") if section.allow_private else ("https",)
    if not (host and fits and url.isascii() and url.isprintable() and " " not in url and len(url) <= _LONGEST):
        raise InvalidInput(f"callback has to be a URL like https://host/path, at most {_LONGEST} letters long")
    if parts.scheme not in schemes:
        raise InvalidInput("a callback takes https://, so that nobody on the way reads or changes it", field="callback")
    try:
        address = ip_address(host)
    except ValueError:
        return
    try:
        check_address(str(address), "offline", private=section.allow_private)
    except ConfigurationError as error:
        raise InvalidInput(f"callback: {error}", field="callback") from None


def call(section: OfflineSection, database: Database, request: str, delivery: str) -> dict[str, Any]:
    """Tell the callback of a request: the work of a job `requests.call`.

    Args:
        section: with the secret.
        database: of the requests.
        request: its id.
        delivery: the same for every try, so that a receiver can tell a repeated one.

    Raises:
        ConfigurationError: there is no secret any more, or its address is refused.
        NotFound: the request has been forgotten.
        NotReady: it did not take it; try again.
    """
    if not section.callback_secret:
        raise ConfigurationError("[offline] has no `callback_secret` any more; the callback was not told")
    url, body = database.read(lambda connection: _told(connection, request))
    stamp = str(int(time.time()))
    headers = {"content-type": "application/json", "user-agent": "rung", "rung-delivery": delivery}
    headers |= signed(section.callback_secret, stamp, body)
    status = post(url, body, headers, name="callback", section="offline", private=section.allow_private)
    return {"request": request, "status": status}


def _told(connection: Connection, request: str) -> tuple[str, bytes]:
    row = connection.execute(select(REQUESTS).where(REQUESTS.c.id == request)).first()
    if row is None:
        raise NotFound(f"there is no request {request} any more")
    query = select(ITEMS.c.state, func.count()).where(ITEMS.c.request == request).group_by(ITEMS.c.state)
    told = {
        "id": row.id,
        "model": row.model,
        "state": "cancelled" if row.reason else "ended",
        "items": row.total,
        "counts": dict(connection.execute(query).all()),
        "finished": row.finished,
    }
    return row.callback, msgspec.json.encode(told)

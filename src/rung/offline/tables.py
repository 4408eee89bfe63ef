"""The tables of requests that are answered later, as statements name them.

Their columns and indexes are made by `rung.store.migrations`.
"""

from sqlalchemy import Column, Double, Integer, LargeBinary, MetaData, Table, Text

__all__ = ["ITEMS", "REQUESTS"]

_METADATA = MetaData()

REQUESTS = Table(
    "rung_requests",
    _METADATA,
    Column("id", Text, primary_key=True),
    Column("model", Text),
    Column("owner", Text),  # id of the key that it came with
    Column("digest", Text),  # of all that was asked: the same idempotency key stands for the same request
    Column("idempotency_key", Text),  # NULL without one
    Column("priority", Integer),
    Column("key", Text),
    Column("unit", Text),
    Column("accept", Text),
    Column("deadline", Double),  # 0 without one
    Column("callback", Text),
    Column("total", Integer),
    Column("queued", Double),  # when its items were put into the queue; 0 until that has been seen to succeed
    Column("reason", Text),  # of a cancellation
    Column("created", Double),
    Column("finished", Double),
)
ITEMS = Table(
    "rung_request_items",
    _METADATA,
    Column("request", Text, primary_key=True),
    Column("place", Integer, primary_key=True),
    Column("name", Text),
    Column("media", Text),
    Column("body", LargeBinary),  # NULL once it is done
    Column("state", Text),
    Column("replays", Integer),
    Column("tries", Integer),
    Column("answer", LargeBinary),
    Column("answer_media", Text),
    Column("version", Integer),
    Column("prediction", Text),
    Column("error", Text),
    Column("finished", Double),
)

"""Requests that can wait for their answers, and the items that they are made of."""

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0003"
down_revision = "0002"

_TIME: sa.Double[float] = sa.Double()


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "rung_requests",
        sa.Column("id", sa.Text, primary_key=True),
        sa.Column("model", sa.Text, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("digest", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("priority", sa.Integer, nullable=False),
        sa.Column("key", sa.Text, nullable=False),
        sa.Column("unit", sa.Text, nullable=False),
        sa.Column("accept", sa.Text, nullable=False),
        sa.Column("deadline", _TIME, nullable=False),
        sa.Column("callback", sa.Text, nullable=False),
        sa.Column("total", sa.Integer, nullable=False),
        sa.Column("queued", _TIME, nullable=False),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("finished", _TIME),
    )
    _index("rung_requests", "idempotency", ["model", "owner", "idempotency_key"], "idempotency_key IS NOT NULL", True)
    _index("rung_requests", "open", ["queued"], "finished IS NULL")
    _index("rung_requests", "finished", ["finished"], "finished IS NOT NULL")
    op.create_index("rung_requests_model", "rung_requests", ["model", "id"])
    op.create_table(
        "rung_request_items",
        sa.Column("request", sa.Text, primary_key=True),
        sa.Column("place", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("media", sa.Text, nullable=False),
        sa.Column("body", sa.LargeBinary),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("replays", sa.Integer, nullable=False),
        sa.Column("tries", sa.Integer, nullable=False),
        sa.Column("answer", sa.LargeBinary),
        sa.Column("answer_media", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False),
        sa.Column("prediction", sa.Text, nullable=False),
        sa.Column("error", sa.Text, nullable=False),
        sa.Column("finished", _TIME),
    )
    # A table's own rows hold bodies: what is counted must be found without them.
    op.create_index("rung_request_items_state", "rung_request_items", ["request", "state", "place"])
    _index("rung_request_items", "dead", ["request", "place"], "state = 'dead'")


def _index(table: str, name: str, columns: list[str], where: str, unique: bool = False) -> None:
    op.create_index(
        f"{table}_{name}",
        table,
        columns,
        unique=unique,
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )

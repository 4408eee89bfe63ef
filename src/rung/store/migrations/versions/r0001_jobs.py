"""The job table, what waits for what, and the schedules."""

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0001"
down_revision = None

_ID = sa.BigInteger().with_variant(sa.Integer, "sqlite")  # only INTEGER is SQLite's own row number
_TIME: sa.Double[float] = sa.Double()


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "rung_jobs",
        sa.Column("id", _ID, primary_key=True, autoincrement=True),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("state", sa.Text, nullable=False),
        sa.Column("arguments", sa.Text, nullable=False),
        sa.Column("rank", sa.Integer, nullable=False),
        sa.Column("key", sa.Text),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("idempotency_key", sa.Text),
        sa.Column("after", sa.Text),
        sa.Column("pending", sa.Integer, nullable=False),
        sa.Column("cancelled_by", _ID),
        sa.Column("run_at", _TIME, nullable=False),
        sa.Column("attempts", sa.Integer, nullable=False),
        sa.Column("max_attempts", sa.Integer, nullable=False),
        sa.Column("backoff", _TIME, nullable=False),
        sa.Column("timeout", _TIME, nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False),
        sa.Column("worker", sa.Text),
        sa.Column("lease_seconds", _TIME),
        sa.Column("expires", _TIME),
        sa.Column("progress", _TIME, nullable=False),
        sa.Column("note", sa.Text),
        sa.Column("result", sa.Text),
        sa.Column("error", sa.Text),
        sa.Column("created", _TIME, nullable=False),
        sa.Column("started", _TIME),
        sa.Column("finished", _TIME),
        sqlite_autoincrement=True,
    )
    _index("ready", ["kind", "rank", "owner", "id"], "state = 'ready'")
    _index("scheduled", ["run_at"], "state = 'scheduled'")
    _index("waiting", ["kind"], "state = 'waiting'")
    _index("leased", ["kind", "owner"], "state = 'leased'")
    # One job of a key at most is under way: the index itself refuses a second.
    _index("active", ["key"], "key IS NOT NULL AND finished IS NULL AND state <> 'waiting'", unique=True)
    _index("queued", ["key", "id"], "key IS NOT NULL AND state = 'waiting'")
    _index("idempotency", ["kind", "owner", "idempotency_key"], "idempotency_key IS NOT NULL", unique=True)
    _index("finished", ["state", "kind", "finished"], "finished IS NOT NULL")
    op.create_table(
        "rung_job_links",
        sa.Column("parent", _ID, primary_key=True),
        sa.Column("child", _ID, primary_key=True),
        sqlite_with_rowid=False,
    )
    op.create_index("rung_job_links_child", "rung_job_links", ["child"])
    clock = op.create_table(
        "rung_job_clock",
        sa.Column("id", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("seen", _TIME, nullable=False),
    )
    op.bulk_insert(clock, [{"id": 1, "seen": 0.0}])
    op.create_table(
        "rung_schedules",
        sa.Column("name", sa.Text, primary_key=True),
        sa.Column("tick", _TIME, nullable=False),
    )


def _index(name: str, columns: list[str], where: str, *, unique: bool = False) -> None:
    op.create_index(
        f"rung_jobs_{name}",
        "rung_jobs",
        columns,
        unique=unique,
        sqlite_where=sa.text(where),
        postgresql_where=sa.text(where),
    )

"""Answers to whole data sets, found by key, and what stands in for them."""

import sqlalchemy as sa
from alembic import op

__all__ = ["down_revision", "revision", "upgrade"]

revision = "0004"
down_revision = "0003"

_TIME: sa.Double[float] = sa.Double()


def upgrade() -> None:
    """Make the tables."""
    op.create_table(
        "rung_scores",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("key", sa.Text, primary_key=True),
        sa.Column("as_of", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("place", sa.Text, nullable=False),
        sa.Column("value", _TIME),
        sa.Column("label", sa.Text),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("written", _TIME, nullable=False),
    )
    op.create_index("rung_scores_run", "rung_scores", ["model", "as_of", "version", "place"])
    op.create_table(
        "rung_score_groups",
        sa.Column("model", sa.Text, primary_key=True),
        sa.Column("place", sa.Text, primary_key=True),
        sa.Column("as_of", sa.Text, primary_key=True),
        sa.Column("version", sa.Integer, primary_key=True, autoincrement=False),
        sa.Column("rows", sa.BigInteger, nullable=False),
        sa.Column("answer", sa.Text, nullable=False),
        sa.Column("written", _TIME, nullable=False),
    )

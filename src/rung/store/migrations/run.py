"""Bring a database's tables up to date."""

from collections.abc import Callable
from pathlib import Path

from sqlalchemy import Connection, inspect, text

from rung.domain.errors import ConfigurationError

__all__ = ["HEAD", "migrate"]

HEAD = "0004"
"""The newest revision in `versions/`. Known here so that an up-to-date database is opened without Alembic."""

_VERSIONS = "rung_version"
_LOCK = 0x72756E67  # any number will do; all releases have to use the same one


def migrate(
    read: Callable[[Callable[[Connection], str]], str], write: Callable[[Callable[[Connection], None]], None], name: str
) -> None:
    """Run the steps that a database has not seen, all in one transaction: all or none take effect.

    Args:
        read: runs a function in a transaction that reads.
        write: runs one in a transaction that writes.
        name: of the database, for messages.

    Raises:
        ConfigurationError: the tables were made by a newer release.
    """
    if read(_revision) != HEAD:
        write(lambda connection: _upgrade(connection, name))


def _upgrade(connection: Connection, name: str) -> None:
    if connection.dialect.name == "postgresql":
        # SQLite's write transaction keeps others out; here it takes a lock, which ends with the transaction.
        connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _LOCK})
    revision = _revision(connection)
    if revision == HEAD:
        return  # another process was faster

    from alembic.config import Config
    from alembic.runtime.environment import EnvironmentContext
    from alembic.script import ScriptDirectory

    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent).replace("%", "%%"))
    config.set_main_option("path_separator", "os")
    scripts = ScriptDirectory.from_config(config)
    known = {script.revision for script in scripts.walk_revisions()}
    if revision and revision not in known:
        raise ConfigurationError(
            f"{name} was made by a newer rung (its tables are at step {revision}, this release knows up to {HEAD}): "
            "install that release (pip install --upgrade rung), or point to another database"
        )
    with EnvironmentContext(
        config, scripts, fn=lambda seen, _: scripts._upgrade_revs(HEAD, seen), destination_rev=HEAD
    ) as environment:
        environment.configure(connection=connection, version_table=_VERSIONS, transactional_ddl=True)
        environment.run_migrations()


def _revision(connection: Connection) -> str:
    if not inspect(connection).has_table(_VERSIONS):
        return ""
    return str(connection.execute(text(f"SELECT version_num FROM {_VERSIONS}")).scalar() or "")  # noqa: S608 - a constant

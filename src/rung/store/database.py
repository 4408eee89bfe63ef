"""A database by URL: SQLite in a file, or PostgreSQL.

`sqlite:PATH` and `sqlite:///PATH` name a file by a relative path, `sqlite:////PATH` by an absolute one;
`postgresql://user:password@host/name` names a server. Statements are SQLAlchemy Core; all functions block.

SQLite comes with `pysqlite3`, since Debian's own can corrupt a write-ahead log that several processes use.
"""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, Self, TypeVar

from rung.domain.errors import ConfigurationError, MissingDependency, NotReady, OperatorError, RungError, StorageFull

try:
    from sqlalchemy import Connection, Engine, create_engine, event, exc, make_url
    from sqlalchemy.engine import URL
except ImportError:
    raise MissingDependency("a database needs SQLAlchemy: pip install 'rung[platform]'") from None

__all__ = ["Database", "open_database"]

_T = TypeVar("_T")
_OLDEST_SQLITE = (3, 51, 3)
_OLDEST_POSTGRES = 140000
_RETRIED = frozenset({"40001", "40P01"})  # serialization failure, deadlock: nothing was written, run it again
_TRIES = 5
_FULL = frozenset({"53100"})
_CONNECTIONS = 8


class Database:
    """One database, with a small pool of connections; its methods may be called from any thread.

    Guarantees:
        1. What `write` returned from is on disk, unless the operating system lies.
        2. A function given to `write` that raises leaves nothing behind.
        3. Every error is one of `rung.domain.errors`.
    """

    def __init__(self, engine: Engine, name: str, *, busy_seconds: float) -> None:
        self.name = name
        """The URL without a password, for messages."""
        self.dialect = engine.dialect.name
        """`sqlite` or `postgresql`."""
        self._engine = engine
        self._reader = engine.execution_options(rung_begin="BEGIN")
        self._busy_seconds = busy_seconds
        # SQLite lets writers wait by polling, and whoever polls luckily wins: threads of one process take turns here.
        self._turn = Lock()

    def read(self, work: Callable[[Connection], _T]) -> _T:
        """Run `work` in a transaction that sees one state and writes nothing.

        Raises:
            NotReady: the database cannot be reached, or stays locked.
        """
        with self._errors(), self._reader.connect() as connection, connection.begin():
            return work(connection)

    def write(self, work: Callable[[Connection], _T]) -> _T:
        """Run `work` in a transaction; runs it anew where PostgreSQL gave it up to resolve a deadlock.

        Raises:
            NotReady: the database cannot be reached, or stays locked by another process.
            StorageFull: the disk is full; nothing was written.
        """
        if self.dialect == "sqlite":
            if not self._turn.acquire(timeout=self._busy_seconds):
                raise NotReady(self._locked())
            try:
                return self._once(work)
            finally:
                self._turn.release()
        for _ in range(_TRIES - 1):
            try:
                return self._once(work)
            except _Retry:
                continue
        return self._once(work)

    def close(self) -> None:
        """Close every connection; twice is no error."""
        self._engine.dispose()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _once(self, work: Callable[[Connection], _T]) -> _T:
        with self._errors(), self._engine.connect() as connection, connection.begin():
            return work(connection)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except exc.DBAPIError as error:
            raise self._translated(error) from error
        except exc.TimeoutError as error:
            raise NotReady(f"all {_CONNECTIONS} connections to {self.name} are in use; try again") from error

    def _translated(self, error: exc.DBAPIError) -> RungError:
        reason = str(error.orig).strip().partition("\n")[0]
        state = getattr(error.orig, "sqlstate", None)
        if state in _RETRIED:
            return _Retry(f"{self.name} gave this up to end a deadlock ({reason}); try again")
        if state in _FULL or "disk is full" in reason:
            return StorageFull(f"the disk under {self.name} is full; nothing was written. Free some space")
        if "is locked" in reason:
            return NotReady(self._locked())
        if "readonly database" in reason or "unable to open" in reason:
            return ConfigurationError(
                f"{self.name} cannot be written: {reason}. Check owner and mode of file and folder"
            )
        if "not a database" in reason or "malformed" in reason:
            return ConfigurationError(f"{self.name} is damaged or no SQLite database: {reason}. Restore a copy of it")
        if error.connection_invalidated or (self.dialect == "postgresql" and isinstance(error, exc.OperationalError)):
            return NotReady(f"{self.name} cannot be reached: {reason}")
        return OperatorError(f"{self.name} refused a statement: {reason}")

    def _locked(self) -> str:
        return (
            f"{self.name} stayed locked by another process for {self._busy_seconds:g} seconds; "
            "end what holds it, or try again"
        )


class _Retry(NotReady):
    """Given up by the database, to be run again."""


def open_database(url: str, *, create: bool = True, busy_seconds: float = 10.0) -> Database:
    """Open the database that a URL names, and bring its tables up to date.

    Several processes may do so at once; a process that is killed meanwhile leaves the old state.

    Args:
        url: `sqlite:...` or `postgresql://...`.
        create: make the SQLite file if there is none.
        busy_seconds: how long to wait for a lock that another process holds.

    Raises:
        ConfigurationError: the URL names no database that rung knows, the file is missing or damaged, or its tables
            were made by a newer release.
        MissingDependency: an extra has to be installed; the message says which.
        NotReady: it cannot be reached, or stays locked.
        StorageFull: there is no room for the tables.
    """
    from rung.store.migrations.run import migrate

    scheme = url.partition(":")[0].partition("+")[0]
    if scheme == "sqlite":
        database = _open_sqlite(url, create, busy_seconds)
    elif scheme in ("postgresql", "postgres"):
        database = _open_postgres(url, busy_seconds)
    else:
        raise ConfigurationError(f"{scheme!r:.40} is no database that rung knows: use sqlite:PATH or postgresql://...")
    try:
        migrate(database.read, database.write, database.name)
    except BaseException:
        database.close()
        raise
    return database


def _open_sqlite(url: str, create: bool, busy_seconds: float) -> Database:
    try:
        from pysqlite3 import dbapi2
    except ImportError:
        raise MissingDependency("sqlite: URLs need pysqlite3: pip install 'rung[platform]'") from None
    if dbapi2.sqlite_version_info < _OLDEST_SQLITE:
        # TensorFlow gives its own copy of SQLite to all that is loaded after it.
        way = "import pysqlite3 before tensorflow" if "tensorflow" in sys.modules else "pip install --upgrade pysqlite3"
        raise ConfigurationError(
            f"SQLite {dbapi2.sqlite_version} can corrupt a write-ahead log under several processes; rung needs "
            f"{'.'.join(map(str, _OLDEST_SQLITE))}: {way}"
        )
    path = _path(url)
    if not path.exists():
        if not create:
            raise ConfigurationError(f"there is no database {path}; `rung up` makes one in a project folder")
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise ConfigurationError(f"the folder of the database {path} cannot be made: {error}") from error
    engine = create_engine(
        URL.create("sqlite", database=str(path)),
        module=dbapi2,
        connect_args={"timeout": busy_seconds, "check_same_thread": False, "isolation_level": None},
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=busy_seconds,
    )

    @event.listens_for(engine, "connect")
    def _prepare(connection: Any, _: Any) -> None:
        _use_wal(connection, busy_seconds)
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("PRAGMA foreign_keys = ON")

    @event.listens_for(engine, "begin")
    def _begin(connection: Connection) -> None:
        # The driver's own BEGIN is deferred: two readers that turn writers would deadlock.
        connection.exec_driver_sql(connection.get_execution_options().get("rung_begin", "BEGIN IMMEDIATE"))

    return Database(engine, f"sqlite:{path}", busy_seconds=busy_seconds)


def _path(url: str) -> Path:
    rest = url.partition(":")[2]
    path = rest.removeprefix("///")
    if not path or path.startswith(("//", ":memory:")) or "?" in path:
        raise ConfigurationError(f"{url!r} names no file: use sqlite:PATH, such as sqlite:.rung/rung.db")
    return Path(path)


def _use_wal(connection: Any, seconds: float) -> None:
    # Changing the mode needs the file for itself, and SQLite does not wait for that by its own time limit.
    until = time.monotonic() + seconds
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
        except connection.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > until:
                raise
            time.sleep(0.01)
        else:
            return


def _open_postgres(url: str, busy_seconds: float) -> Database:
    try:
        import psycopg  # noqa: F401 - asks whether it is there
    except ImportError:
        raise MissingDependency("postgresql: URLs need psycopg: pip install 'rung[postgres]'") from None
    try:
        parsed = make_url(url).set(drivername="postgresql+psycopg")
    except exc.ArgumentError:
        raise ConfigurationError("the URL of the database is not like postgresql://user@host/name") from None
    engine = create_engine(
        parsed,
        connect_args={"connect_timeout": max(2, round(busy_seconds)), "application_name": "rung"},
        pool_size=_CONNECTIONS,
        max_overflow=0,
        pool_timeout=busy_seconds,
        pool_pre_ping=True,
        isolation_level="READ COMMITTED",
    )
    database = Database(engine, parsed.set(drivername="postgresql").render_as_string(), busy_seconds=busy_seconds)
    version = database.read(lambda connection: connection.exec_driver_sql("SHOW server_version_num").scalar_one())
    if int(version) < _OLDEST_POSTGRES:
        database.close()
        raise ConfigurationError(f"{database.name} is PostgreSQL {version}; rung needs 14 or newer")
    return database

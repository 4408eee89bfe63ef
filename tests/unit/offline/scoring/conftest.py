"""A PostgreSQL server for the tests of a file that ask for one."""

from collections.abc import Iterator

import pytest

from rung.testing.postgres import serve_postgres


@pytest.fixture(scope="module")
def postgres() -> Iterator[str]:
    with serve_postgres() as url:
        yield url

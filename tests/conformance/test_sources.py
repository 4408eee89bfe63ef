"""Every source of rows passes the suite of the port, on the real engine."""

import asyncio
import http.server
import json
import shutil
import subprocess
import threading
from contextlib import closing
from pathlib import Path

import polars as pl
import psycopg
import pytest
from pysqlite3 import dbapi2

from rung.testing.postgres import serve_postgres
from rung.testing.sources import RowSourceConformance


class _InFiles(RowSourceConformance):
    """All rows in one file, written anew."""

    name = ""

    @pytest.fixture(autouse=True)
    def place(self, tmp_path):
        self.rows = []
        self.path = tmp_path / self.name

    def put(self, rows):
        self.rows += rows
        self.write(pl.DataFrame(self.rows))

    def write(self, frame):
        raise NotImplementedError

    def url(self):
        return str(self.path)

    def vanish(self):
        self.path.unlink()


class TestCsv(_InFiles):
    name = "cities.csv"

    def write(self, frame):
        frame.write_csv(self.path)


class TestSeparated(_InFiles):
    name = "cities.txt"

    def write(self, frame):
        frame.write_csv(self.path, separator=";", include_header=False)

    def url(self):
        return f"csv:{self.path}?separator=;&columns=id,city,size"


class TestParquet(_InFiles):
    name = "cities.parquet"

    def write(self, frame):
        frame.write_parquet(self.path)


class TestArrow(_InFiles):
    name = "cities.arrow"

    def write(self, frame):
        frame.write_ipc(self.path)


class TestJsonLines(_InFiles):
    name = "cities.jsonl"

    def write(self, frame):
        frame.write_ndjson(self.path)


class TestSeveralFiles(RowSourceConformance):
    @pytest.fixture(autouse=True)
    def place(self, tmp_path):
        self.folder = tmp_path / "parts"
        self.folder.mkdir()

    def put(self, rows):
        number = len(list(self.folder.iterdir()))
        pl.DataFrame(rows).write_csv(self.folder / f"part-{number}.csv")

    def url(self):
        return "csv:parts/*.csv"

    def vanish(self):
        shutil.rmtree(self.folder)


class TestFunction(_InFiles):
    name = "source_of_cities.json"

    def write(self, frame):
        self.path.write_text(json.dumps(frame.to_dicts()))
        code = "import json, pathlib\ndef rows():\n"
        code += f"    yield from json.loads(pathlib.Path({str(self.path)!r}).read_text())\n"
        self.module = f"cities_{abs(hash(str(self.path)))}"
        (self.path.parent / f"{self.module}.py").write_text(code)

    def url(self):
        return f"{self.module}:rows"


class TestSqlite(RowSourceConformance):
    """With a cursor: only what is new is read."""

    options = "table=cities&cursor=id"

    @pytest.fixture(autouse=True)
    def place(self, tmp_path):
        self.path = tmp_path / "shop.db"

    def put(self, rows):
        with closing(dbapi2.connect(self.path)) as database:
            database.execute("CREATE TABLE IF NOT EXISTS cities (id INTEGER, city TEXT, size REAL)")
            database.executemany("INSERT INTO cities VALUES (:id, :city, :size)", rows)
            database.commit()

    def url(self):
        return f"sqlite:{self.path}?{self.options}"

    def vanish(self):
        self.path.unlink()


class TestSqliteQuery(TestSqlite):
    options = "query=SELECT+*+FROM+cities+ORDER+BY+id"


@pytest.fixture(scope="module")
def postgres():
    with serve_postgres() as url:
        yield url


class TestPostgresql(RowSourceConformance):
    @pytest.fixture(autouse=True)
    def place(self, postgres):
        self.server = postgres
        with psycopg.connect(postgres, autocommit=True) as database:
            database.execute("DROP TABLE IF EXISTS cities")
            database.execute("CREATE TABLE cities (id bigint, city text, size double precision)")

    def put(self, rows):
        with psycopg.connect(self.server) as database, database.cursor() as cursor:
            cursor.executemany("INSERT INTO cities VALUES (%(id)s, %(city)s, %(size)s)", list(rows))

    def url(self):
        return f"{self.server}?table=cities&cursor=id"

    def vanish(self):
        with psycopg.connect(self.server, autocommit=True) as database:
            database.execute("DROP TABLE cities")


class TestWeb(_InFiles):
    name = "cities.csv"

    @pytest.fixture(autouse=True)
    def server(self, place, tmp_path):
        class Quiet(http.server.SimpleHTTPRequestHandler):
            def log_message(self, *_details):
                pass

        def handle(*arguments):
            return Quiet(*arguments, directory=tmp_path)

        with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handle) as server:
            thread = threading.Thread(target=server.serve_forever)
            thread.start()
            self.address = f"http://127.0.0.1:{server.server_port}"
            yield
            server.shutdown()
            thread.join()

    def write(self, frame):
        frame.write_csv(self.path)

    def url(self):
        return f"{self.address}/cities.csv"


@pytest.fixture(scope="module")
def nats_server(tmp_path_factory):
    """A real server with JetStream, on a port that it chose."""
    folder = tmp_path_factory.mktemp("nats")
    program = Path(shutil.which("nats-server") or Path(__import__("sys").executable).with_name("nats-server"))
    command = [program, "-js", "-a", "127.0.0.1", "-p", "-1", "-sd", folder, "--ports_file_dir", folder]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            while not (found := list(folder.glob("nats-server_*.ports"))) or not found[0].read_text().strip():
                assert process.poll() is None
            yield json.loads(found[0].read_text())["nats"][0].removeprefix("nats://")
        finally:
            process.terminate()


class TestNats(RowSourceConformance):
    @pytest.fixture(autouse=True)
    def place(self, nats_server, tmp_path):
        self.server = nats_server
        self.subject = f"cities{abs(hash(str(tmp_path)))}"
        self.do(lambda stream: stream.add_stream(name=self.subject, subjects=[self.subject]))

    def do(self, work):
        import nats

        async def run():
            connection = await nats.connect(f"nats://{self.server}")
            try:
                return await work(connection.jetstream())
            finally:
                await connection.close()

        return asyncio.run(run())

    def put(self, rows):
        async def publish(stream):
            for row in rows:
                await stream.publish(self.subject, json.dumps(row).encode())

        self.do(publish)

    def url(self):
        return f"nats://{self.server}/{self.subject}"

    def vanish(self):
        self.do(lambda stream: stream.delete_stream(self.subject))

    def test_what_comes_again_is_one_row(self, folder):
        """A reader that dies between keeping and acknowledging gets its messages again."""
        from rung.data import datasets
        from rung.data.sources.nats import _Nats
        from rung.settings.project import DataSection
        from rung.store.blobs import open_store
        from rung.testing.sources import ROWS

        store = open_store(str(folder / "store"))
        self.put(ROWS[:3])
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(_Nats, "keep", lambda *_: None)
            datasets.ingest(store, "cities", DataSection(source=self.url()), folder)
        # The server gives out again what nobody acknowledged, here at once: to it the reader is a new one.
        self.do(lambda stream: stream.delete_consumer(self.subject, "rung"))
        self.put(ROWS[3:])
        version = datasets.ingest(store, "cities", DataSection(source=self.url()), folder)
        assert self.table(folder) == list(ROWS)
        assert version.cursor == str(len(ROWS))

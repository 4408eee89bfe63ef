"""A project folder and its `rung up`, as a user starts, asks and ends it."""

import http.client
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import httpx2
import orjson
import psutil

PATIENCE = 60.0
"""Seconds for a start or an end; a machine under load takes its time."""
ROWS = orjson.dumps({"inputs": [{"name": "x", "shape": [1, 16], "datatype": "FP32", "data": [0.5] * 16}]})


class Project:
    """A project folder, and `rung` in it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.process: subprocess.Popen[bytes] | None = None
        self.url = self.control = ""

    def rung(self, *args: object, check: bool = True, **env: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "rung", *map(str, args)]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=PATIENCE, env={**os.environ, **env}
        )
        assert not check or done.returncode == 0, done.stdout + done.stderr
        return done

    def up(self, *args: object, ready: bool = True, **env: str) -> None:
        command = [sys.executable, "-m", "rung", "up", *map(str, args), "--port", "0", "--control-port", "0", "--json"]
        with (self.folder / "up.log").open("ab") as log:
            self.process = subprocess.Popen(
                command, cwd=self.folder, stdout=subprocess.PIPE, stderr=log, env={**os.environ, **env}
            )
        if ready:
            line = self.process.stdout.readline()
            assert line, self.log
            said = orjson.loads(line)
            self.url, self.control = said["url"], said["control"]

    @property
    def log(self) -> str:
        return (self.folder / "up.log").read_text()

    def back(self, name: str) -> None:
        """Wait until a role that was ended works again."""
        self.until(lambda: self.role(name)["restarts"] == 1 and self.role(name)["state"] == "ready")

    def ps(self) -> dict:
        return orjson.loads(self.rung("ps", "--json").stdout)

    def state(self) -> dict:
        """What the supervisor says; quicker than `ps`."""
        return orjson.loads((self.folder / ".rung" / "up.json").read_bytes())

    def role(self, name: str) -> dict:
        return next(role for role in self.state()["roles"] if role["name"] == name)

    def until(self, true: Callable[[], object]) -> None:
        """Wait for the supervisor to say so: it tells by a file, which is looked at again and again."""
        deadline = time.monotonic() + PATIENCE
        while True:
            with suppress(FileNotFoundError, StopIteration, httpx2.HTTPError):
                if true():
                    return
            assert time.monotonic() < deadline, self.log
            time.sleep(0.02)

    def predict(self) -> int:
        return httpx2.post(f"{self.url}/v2/models/tiny/infer", content=ROWS, timeout=PATIENCE).status_code

    def family(self) -> list[psutil.Process]:
        return psutil.Process(self.process.pid).children(recursive=True)

    def end(self, number: signal.Signals = signal.SIGTERM) -> int:
        if self.process.poll() is None:
            self.process.send_signal(number)
        code = self.process.wait(PATIENCE)
        self.process.stdout.close()
        return code


@contextmanager
def load(url: str) -> Iterator[list[object]]:
    """Predictions one after another over one connection; the outcomes, each a status or an exception."""
    outcomes: list[object] = []
    stop = threading.Event()
    host, _, port = url.removeprefix("http://").rpartition(":")

    def ask() -> None:
        connection = http.client.HTTPConnection(host, int(port), timeout=PATIENCE)
        while not stop.is_set():
            try:
                connection.request("POST", "/v2/models/tiny/infer", ROWS)
                reply = connection.getresponse()
                reply.read()
                outcomes.append(reply.status)
            except (OSError, http.client.HTTPException) as error:
                outcomes.append(error)
                connection.close()
        connection.close()

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield outcomes
    finally:
        stop.set()
        thread.join()

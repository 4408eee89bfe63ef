"""A served model from outside: start `rung serve` as a person would, send pictures, take times."""

import http.client
import json
import select
import shutil
import subprocess
import sys
import threading
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlsplit

import numpy as np

__all__ = ["Load", "Server", "ServiceError", "get", "infer", "load", "predict"]

Array = np.ndarray[Any, np.dtype[Any]]


class ServiceError(Exception):
    """The server did not start, or refused a request."""


class Server:
    """`rung serve REPOSITORY` in a process of its own; ends with the `with` block.

    Attributes:
        url: where it answers, once entered.
    """

    def __init__(self, repository: Path, *, port: int, log: Path, seconds: float = 60) -> None:
        self.url = ""
        self._repository = repository
        self._port = port
        self._log = log
        self._seconds = seconds
        self._process: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        # Where the system can, the server also ends when this process is killed outright.
        guard = ["setpriv", "--pdeathsig", "TERM"] if shutil.which("setpriv") else []
        command = [sys.executable, "-m", "rung", "serve", str(self._repository), "--port", str(self._port), "--json"]
        with self._log.open("wb") as log:
            self._process = subprocess.Popen([*guard, *command], stdout=subprocess.PIPE, stderr=log)
        try:
            self.url = self._announced(self._process)
        except BaseException:
            self.close()
            raise
        return self

    def _announced(self, process: subprocess.Popen[bytes]) -> str:
        assert process.stdout is not None
        readable, _, _ = select.select([process.stdout], [], [], self._seconds)
        line = process.stdout.readline() if readable else b""
        if not line:
            said = self._log.read_text(errors="replace").strip()[-2000:]
            raise ServiceError(f"rung serve did not start within {self._seconds:.0f} seconds. It said: {said or '-'}")
        return str(json.loads(line)["url"])

    def wait(self) -> None:
        """Block until the server ends by itself."""
        assert self._process is not None
        self._process.wait()

    def close(self) -> None:
        """End it: politely, then for certain."""
        if self._process is None:
            return
        self._process.terminate()
        try:
            self._process.wait(35)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def __exit__(self, *_: object) -> None:
        self.close()


class Load(NamedTuple):
    """What came back under load."""

    masks: list[bytes]
    """The first answer to each picture."""
    differing: int
    """Answers to a picture that were not the bytes of the first."""
    latencies: Array
    """Seconds from sending a request to having read its answer, one per request."""
    wall: float
    """Seconds from the first request to the last answer."""

    @property
    def rate(self) -> float:
        """Requests per second."""
        return len(self.latencies) / self.wall

    def percentile(self, share: float) -> float:
        """Return a latency in milliseconds."""
        return float(np.percentile(self.latencies, share)) * 1e3


def _connect(url: str) -> http.client.HTTPConnection:
    parts = urlsplit(url)
    assert parts.hostname is not None
    return http.client.HTTPConnection(parts.hostname, parts.port, timeout=60)


def _post(connection: http.client.HTTPConnection, path: str, body: bytes, headers: dict[str, str]) -> tuple[Any, bytes]:
    connection.request("POST", path, body, headers)
    response = connection.getresponse()
    answer = response.read()
    if response.status != 200:
        raise ServiceError(f"{path} answered {response.status}: {answer[:500].decode(errors='replace')}")
    return response.headers, answer


def get(url: str, path: str) -> Any:
    """Return the JSON that a `GET` is answered with.

    Raises:
        ServiceError: nobody answers, or not with 200.
    """
    connection = _connect(url)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        answer = response.read()
    except (OSError, http.client.HTTPException) as error:
        raise ServiceError(f"{url}{path} does not answer: {error}") from error
    finally:
        connection.close()
    if response.status != 200:
        raise ServiceError(f"{path} answered {response.status}: {answer[:500].decode(errors='replace')}")
    return json.loads(answer)


def predict(url: str, model: str, images: Sequence[bytes], accept: str = "image/png") -> list[bytes]:
    """Send pictures one after another over one connection; return the answers."""
    connection = _connect(url)
    headers = {"Content-Type": "image/png", "Accept": accept}
    try:
        return [_post(connection, f"/predict/{model}", image, headers)[1] for image in images]
    finally:
        connection.close()


def infer(url: str, model: str, images: Array) -> Array:
    """Send FP32 [N, 3, H, W] through the Open Inference Protocol's binary form; return the output tensor."""
    tensor = {
        "name": "image",
        "shape": list(images.shape),
        "datatype": "FP32",
        "parameters": {"binary_data_size": images.nbytes},
    }
    head = json.dumps({"inputs": [tensor], "parameters": {"binary_data_output": True}}).encode()
    headers = {"Content-Type": "application/octet-stream", "Inference-Header-Content-Length": str(len(head))}
    connection = _connect(url)
    try:
        answered, body = _post(connection, f"/v2/models/{model}/infer", head + images.tobytes(), headers)
    finally:
        connection.close()
    length = int(answered["Inference-Header-Content-Length"])
    (output,) = json.loads(body[:length])["outputs"]
    return np.frombuffer(body[length:], "<f4").reshape(output["shape"])


def load(url: str, model: str, images: Sequence[bytes], *, rounds: int, connections: int = 8) -> Load:
    """Send each picture `rounds` times over this many connections, each asking again as soon as it is answered.

    Raises:
        ServiceError: a request was refused; the first refusal is told.
    """
    work = iter([index for _ in range(rounds) for index in range(len(images))])
    answers: list[list[bytes]] = [[] for _ in images]
    latencies: list[float] = []
    failures: list[Exception] = []
    lock = threading.Lock()

    def caller() -> None:
        connection = _connect(url)
        headers = {"Content-Type": "image/png", "Accept": "image/png"}
        try:
            while not failures:
                with lock:
                    index = next(work, None)
                if index is None:
                    return
                begun = time.perf_counter()
                _, mask = _post(connection, f"/predict/{model}", images[index], headers)
                latencies.append(time.perf_counter() - begun)
                answers[index].append(mask)
        except (ServiceError, OSError, http.client.HTTPException) as error:
            failures.append(error)
        finally:
            connection.close()

    callers = [threading.Thread(target=caller, daemon=True) for _ in range(connections)]
    begun = time.perf_counter()
    for thread in callers:
        thread.start()
    for thread in callers:
        thread.join()
    wall = time.perf_counter() - begun
    if failures:
        raise ServiceError(f"under load with {connections} connections: {failures[0]}")
    differing = sum(mask != given[0] for given in answers for mask in given)
    return Load([given[0] for given in answers], differing, np.array(latencies), wall)

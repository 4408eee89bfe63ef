"""A Redis or Valkey that dies under load, seen from outside: no answer fails, and none waits for it any more."""

import re
import signal
import tempfile
import threading
from pathlib import Path

import httpx2
import numpy as np
import pytest

from rung.catalog import models as catalog
from rung.store.blobs import DiskStore
from rung.testing import models
from rung.testing.caches import serve_valkey


@pytest.fixture
def valkey():
    # A socket's path may have 108 bytes, and pytest's folders are deep.
    with tempfile.TemporaryDirectory(prefix="rung-") as folder, serve_valkey(Path(folder)) as server:
        yield server


def figure(url: str, name: str) -> float:
    found = re.search(rf"^{name}(?:_total)? (\S+)$", httpx2.get(f"{url}/metrics").text, re.MULTILINE)
    return float(found[1]) if found else 0.0


def test_the_shared_cache_dies_under_load_and_nobody_notices(serve, tmp_path, valkey):
    # Only a registered version is named by its bytes, so only such a one shares its answers.
    catalog.register(DiskStore(tmp_path / "repository"), models.tiny(tmp_path / "tiny.onnx"), name="tiny")
    url = serve(
        tmp_path / "repository",
        "--cache",
        f"64KiB,{valkey.url}",
        env={"RUNG_CACHE_MODELS": "tiny"},
    ).url
    statuses: list[int] = []
    halfway, number = threading.Event(), iter(range(10**9))

    def send(count: int) -> None:
        with httpx2.Client(base_url=url, headers={"content-type": "application/octet-stream"}) as client:
            for _ in range(count):
                row = np.full(16, next(number), np.float32).tobytes()
                statuses.append(client.post("/predict/tiny", content=row).status_code)
                if len(statuses) > 300:
                    halfway.set()

    senders = [threading.Thread(target=send, args=(200,)) for _ in range(4)]
    for sender in senders:
        sender.start()
    assert halfway.wait(60)
    asked = figure(url, "rung_cache_fetches")
    valkey.signal(signal.SIGKILL)
    for sender in senders:
        sender.join(60)

    assert asked > 0
    assert len(statuses) == 800
    send(20)
    assert figure(url, "rung_cache_backend_away") == 1.0
    # From then on no request asks it, so none waits for it.
    before = figure(url, "rung_cache_fetches")
    send(200)
    assert set(statuses) == {200}
    assert figure(url, "rung_cache_fetches") == before

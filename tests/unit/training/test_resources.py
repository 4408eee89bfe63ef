import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from rung.training import resources
from rung.training.resources import Sampler

BUSY = """
import time
while time.process_time() < 0.3: pass
print("on", flush=True)
while True: pass
"""
"""It speaks when it has used so much that any kernel's clock has counted it."""


@pytest.fixture
def busy() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield process
        process.kill()


def test_a_busy_process_is_seen_and_one_that_is_gone_is_not(
    busy: subprocess.Popen[bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(resources, "_SECONDS", 0.0)
    sampler = Sampler()
    first = sampler.look([busy.pid])
    assert first is not None
    assert first.cpu > 0, "also the first look says what was used so far"
    assert first.memory > 1 << 20
    assert first.threads == 1
    both = sampler.look([busy.pid, os.getpid()])
    assert both is not None
    assert both.memory > first.memory
    assert both.threads >= 2
    busy.kill()
    busy.wait()
    assert sampler.look([busy.pid]) is None


def test_it_looks_once_a_second_at_first_and_then_every_ten(monkeypatch: pytest.MonkeyPatch) -> None:
    now = 0.0
    monkeypatch.setattr(resources.time, "monotonic", lambda: now)
    sampler = Sampler()
    seen = []
    while now < 1200:
        now += 0.25
        if sampler.look([os.getpid()]):
            seen.append(now)
    assert seen[:3] == [1.0, 2.0, 3.0]
    assert len([at for at in seen if at > 600]) == 60

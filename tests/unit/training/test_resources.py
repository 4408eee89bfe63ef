import os
import subprocess
import sys

import pytest

from rung.training import resources
from rung.training.resources import Sampler

BUSY = "print('on', flush=True)\nwhile True: pass"


def test_a_busy_process_is_seen_and_one_that_is_gone_is_not(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resources, "_SECONDS", 0.0)
    with subprocess.Popen([sys.executable, "-c", BUSY], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        sampler = Sampler()
        first = sampler.look([process.pid])
        assert first is not None
        assert first.cpu > 0, "also the first look says what was used so far"
        assert first.memory > 1 << 20
        assert first.threads == 1
        both = sampler.look([process.pid, os.getpid()])
        assert both is not None
        assert both.memory > first.memory
        assert both.threads >= 2
        process.kill()
        process.wait()
        assert sampler.look([process.pid]) is None


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

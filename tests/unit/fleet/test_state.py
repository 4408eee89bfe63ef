import os
import subprocess
import sys

import pytest

from rung.domain.errors import Conflict
from rung.fleet.state import RoleState, UpState, hold, is_alive, read_state, started_at, write_state


def state_of(pid: int) -> UpState:
    role = RoleState(name="replica-1", role="replica", state="ready", pid=pid, started=started_at(pid))
    return UpState(project="p", pid=pid, started=started_at(pid), since=1.0, roles=[role])


def test_a_state_is_read_as_it_was_written(tmp_path):
    assert read_state(tmp_path) is None
    with hold(tmp_path):
        write_state(tmp_path, state_of(os.getpid()))
        assert read_state(tmp_path) == state_of(os.getpid())
        write_state(tmp_path, None)
        write_state(tmp_path, None)
    assert read_state(tmp_path) is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"project": 1}', "\xff"])
def test_a_damaged_state_is_none(tmp_path, text):
    with hold(tmp_path):
        (tmp_path / ".rung" / "up.json").write_text(text)
    assert read_state(tmp_path) is None


def test_a_second_supervisor_is_refused_and_the_lock_outlives_nobody(tmp_path):
    script = f"""
import sys
from pathlib import Path
from rung.fleet.state import hold
with hold(Path({str(tmp_path)!r})):
    print("held", flush=True)
    sys.stdin.read()
"""
    other = subprocess.Popen([sys.executable, "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert other.stdout.readline() == b"held\n"
    write_state(tmp_path, state_of(other.pid))
    with pytest.raises(Conflict, match=rf"up already \(process {other.pid}\)"), hold(tmp_path):
        pass
    other.kill()
    other.communicate()

    with hold(tmp_path):
        assert read_state(tmp_path).pid == other.pid, "what a killed one wrote is there to be cleared up"


def test_a_process_is_its_id_and_its_start():
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    started = started_at(child.pid)
    assert is_alive(child.pid, started)
    assert not is_alive(child.pid, started + 1), "another process that got the same id"
    child.kill()
    os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
    assert not is_alive(child.pid, started), "dead, though nobody has reaped it"
    child.wait()
    assert not is_alive(child.pid, started)
    assert not is_alive(0, 0)
